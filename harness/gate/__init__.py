"""What a team runs before a merge."""
