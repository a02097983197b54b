"""The memory of a serving process once its model is loaded."""

from __future__ import annotations

import ctypes
import gc
from contextlib import suppress


def freeze_heap() -> None:
    """Freeze the heap once the model is loaded, so that the garbage collector no longer scans it,
    and make collections rare.

    What a thousand open streams hold outlives the young generation, which at the interpreter's own
    threshold of 700 objects is collected every few tokens; next to nothing of it is garbage that
    only a collection finds. What loading needed and gave back (100 MB with the demo model) goes
    back to the system. `gc_threshold` in ENGINE_ARGS has no effect here.
    """
    gc.unfreeze()  # SGLang has frozen this process already, garbage included
    gc.collect()
    with suppress(AttributeError):  # a C library other than glibc
        ctypes.CDLL(None).malloc_trim(0)
    gc.freeze()
    gc.set_threshold(20_000, 5, 10)
