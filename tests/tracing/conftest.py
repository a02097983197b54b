"""No exporter outlives its test: what it does at random would be another test's chance."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

_EXPORTERS = ("last-spans", "OtelBatchSpanRecordProcessor")


@pytest.fixture(autouse=True)
def exporters_end(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    # Ten seconds otherwise, for a collector that does not answer. Longer than the server waits.
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "3")
    yield
    for thread in threading.enumerate():
        if thread.name in _EXPORTERS:
            thread.join(20)
            assert not thread.is_alive(), thread.name
