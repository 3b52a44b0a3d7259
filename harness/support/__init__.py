"""Files, progress, JSON and the environment: helpers that know nothing about decoding."""
