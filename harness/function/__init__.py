"""A function of a user: how it is found, run, searched for failures, and tested."""
