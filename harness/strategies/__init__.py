"""Hypothesis draws cases: for the paths, and for a function of a user."""
