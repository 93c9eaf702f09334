"""The tokenizer page: tokens of a text, the merges that made one, the vocabulary, bytes per token."""
