"""Arithmetic about machines and budgets, without machines."""
