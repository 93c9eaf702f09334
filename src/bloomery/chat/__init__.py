"""A conversation with a model: session and terminal."""
