"""Tasks, scoring and intervals."""
