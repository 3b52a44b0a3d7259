"""The gate: everything worth running before a merge that touches attention."""
