"""The bug report gpt-fast#233, answered claim by claim."""
