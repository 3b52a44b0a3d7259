"""Caches that are written: programs of a serving loop, judged after every step."""
