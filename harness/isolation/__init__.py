"""Processes for work that may crash, hang or take all memory: a server that forks them, a pool with
the interface of ``concurrent.futures``, and work that is handed out so that none is lost."""
