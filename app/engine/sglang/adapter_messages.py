"""What adapters.py and models/adapters.py, in the engine's processes, say to each other."""

from __future__ import annotations

INSTALL = "install"
"""In the place of a path: it has been read, take it."""
READING, READ, IN_USE = "reading", "read", "in use"
"""Answers of the engine's processes."""
