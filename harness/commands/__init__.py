"""Subcommands of ``python -m harness``; each adds its own options and imports torch late."""
