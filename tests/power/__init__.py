"""What the harness catches, and that it accuses nobody who is right."""
