"""What is printed while somebody reads it: a reader that has enough does not end the checks."""

from __future__ import annotations

import os
import sys


def say(text: str) -> None:
    """Print a line at once. After the reader of stdout has closed it, lines are dropped."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        to_nobody()


def to_nobody() -> None:
    """What stands in the buffer, or is printed from here on, goes into nothing."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
