"""Which fault is behind a wrong output."""
