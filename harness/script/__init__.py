"""Standalone scripts that need torch alone."""
