"""How much of its budget each path uses on fixed cases, as recorded."""
