"""From a model to text: the KV-cache engine and sampling."""
