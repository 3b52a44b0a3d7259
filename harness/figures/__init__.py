"""Pictures of what was measured, as one HTML page."""
