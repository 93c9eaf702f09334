"""The transformer, and its import and export in Hugging Face's layout."""
