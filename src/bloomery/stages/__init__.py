"""The table of contents: one file per step of a model's life."""
