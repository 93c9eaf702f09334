"""Configuration, artifacts, files and pools: the ground floor, with no machine learning in it."""
