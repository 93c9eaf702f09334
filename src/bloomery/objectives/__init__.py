"""The mathematics of every loss, as pure tensor functions."""
