"""Rewards and preference pairs: what a model's own samples are worth."""
