"""Hunt: the compiled kernels searched by machine for what is wrong, refused, or let pass."""
