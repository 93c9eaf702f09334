"""State, step and fit: the one trainer that every objective uses."""
