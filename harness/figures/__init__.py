"""The figures: pictures of what was measured, on one HTML page."""
