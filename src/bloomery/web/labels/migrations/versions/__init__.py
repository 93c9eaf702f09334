"""Revisions, each with what it changes; a released one is never edited."""
