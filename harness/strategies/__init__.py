"""Hypothesis strategies that draw cases, for the paths and for a user's function."""
