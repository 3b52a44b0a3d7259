"""What is claimed of the harness itself: its oracle, verdicts, commands and files."""
