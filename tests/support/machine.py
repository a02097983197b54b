"""How slow this machine is now, for bounds that a product promises and a test has to time.

A promise such as "clients are answered within 2 s of the engine's death" is about a machine that
the server has to itself. Where other programs keep the processors busy, or the processor is slower,
the same work takes longer; the bound grows by the factor that a fixed piece of work takes longer.
"""

from __future__ import annotations

import time

_REFERENCE_S = 0.085
"""What `_work` takes on the machine for which the bounds are written, undisturbed."""


def slowness() -> float:
    """How many times longer work takes now than on the machine of reference; at least 1."""
    began = time.perf_counter()
    _work()
    return max(1.0, (time.perf_counter() - began) / _REFERENCE_S)


def allowed(bound_s: float) -> float:
    """A bound in seconds, as long as it is on this machine now."""
    return bound_s * slowness()


def _work() -> int:
    total = 0
    for number in range(2_000_000):
        total += number & 7
    return total
