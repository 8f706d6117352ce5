"""Synthetic rows for the tasks, which need no file."""
