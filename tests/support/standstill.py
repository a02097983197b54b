"""How long a server's event loop stands still, as a client of `/livez` sees it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx


def longest(url: str, work: Callable[[], object]) -> float:
    """The longest wait for an answer while `work` runs, in seconds."""
    over, begun = threading.Event(), threading.Event()
    with ThreadPoolExecutor(1) as pool:
        probe = pool.submit(_slowest, url, begun, over)
        begun.wait()
        try:
            work()
        finally:
            over.set()
        return probe.result()


def _slowest(url: str, begun: threading.Event, over: threading.Event) -> float:
    slowest = 0.0
    with httpx.Client(base_url=url, timeout=60) as client:
        client.get("/livez")
        begun.set()
        while not over.is_set():
            began = time.perf_counter()
            client.get("/livez")
            slowest = max(slowest, time.perf_counter() - began)
            time.sleep(0.001)
    return slowest
