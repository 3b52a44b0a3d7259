"""Benchmarks: times of a decode step, by the fixed path and by others, and of verdicts."""
