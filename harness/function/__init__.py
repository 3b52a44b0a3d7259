"""A user's function: how it is loaded, run, searched for failures, and tested."""
