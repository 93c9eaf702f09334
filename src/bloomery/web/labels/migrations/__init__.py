"""How the labels database came to its present form: one file a revision in `versions/`, run by database.py."""
