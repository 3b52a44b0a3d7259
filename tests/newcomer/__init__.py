"""The first hour of a stranger: the commands that README and docs quote, in a bare environment.

``python -m tests.newcomer`` runs them by the Python that runs it, in a folder of its own.
``tox run -e newcomer`` makes the environment: torch and the wheel, as the README installs them. In
the profile ``nightly`` an environment made by the README's own line gets every extra by the docs'
lines, and what needs them runs there, in a smaller size.

``quotes``  the commands and code blocks that the pages quote
``table``   every quoted command: by day, by night, or why it is not run
``run``     the running of the table
"""
