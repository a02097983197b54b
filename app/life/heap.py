"""The memory of a serving process once its model is loaded."""

from __future__ import annotations

import ctypes
import gc
from contextlib import suppress


def freeze_heap() -> None:
    """Freeze the heap once the model is loaded, so that the garbage collector no longer scans it,
    and make collections rare.

    With the interpreter's threshold of 700 objects, the young generation is collected every few
    tokens. The objects of a thousand open streams outlive it, and almost none of them is garbage
    that only a collection finds. Memory that loading freed (100 MB with the demo model) is returned
    to the system. `gc_threshold` in ENGINE_ARGS has no effect here.
    """
    gc.unfreeze()  # SGLang has frozen this heap already, garbage included
    gc.collect()
    with suppress(AttributeError):  # a C library other than glibc
        ctypes.CDLL(None).malloc_trim(0)
    gc.freeze()
    gc.set_threshold(20_000, 5, 10)
