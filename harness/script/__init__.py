"""Standalone scripts that show a failure and need torch alone."""
