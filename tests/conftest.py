"""Runs before any test module is imported."""

import os
import sys
import tempfile
from importlib.util import find_spec

import pytest
import structlog
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings

# prometheus_client decides at its import whether metrics live in memory or, if this is set, in the
# files of this folder. app/metrics.py reads them from files, as it must with SGLang's processes.
os.environ["PROMETHEUS_MULTIPROC_DIR"] = tempfile.mkdtemp(prefix="test-metrics-")
# Servers that tests start keep responses there, and not in the user's own folder.
os.environ["STATE_DIR"] = tempfile.mkdtemp(prefix="test-state-")
_exit_codes: list[int] = []

# Its own clocks measure the machine, not the program.
hypothesis_settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
hypothesis_settings.load_profile("any machine")

# structlog's default draws tracebacks with rich: 0.8 s for each that a test provokes.
structlog.configure(
    processors=[
        structlog.processors.add_log_level,
        structlog.dev.ConsoleRenderer(
            colors=False, exception_formatter=structlog.dev.plain_traceback
        ),
    ]
)


@pytest.fixture(autouse=True)
def _unfrozen_heap(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server in the test's own process leaves the heap alone: it is the tests', and collecting it
    takes 0.1 s, 0.6 s once SGLang is imported. Servers in processes of their own freeze theirs."""
    monkeypatch.setattr("app.life.host.freeze_heap", lambda: None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """In the light environment a test that needs the full one says so, whatever was selected.

    Nothing is skipped by `make test-full` and `make test-live`: they install SGLang first.
    """
    if find_spec("sglang") is not None:
        return
    for item in items:
        if item.get_closest_marker("full") or item.get_closest_marker("live"):
            item.add_marker(pytest.mark.skip(reason="needs the full environment: make test-full"))


def pytest_sessionfinish(exitstatus: int) -> None:
    _exit_codes.append(int(exitstatus))


@pytest.hookimpl(trylast=True)
def pytest_unconfigure() -> None:
    """Skip the interpreter's shutdown, in which a native library that SGLang's parsers and
    Transformers load crashes under pytest. By now the report is written."""
    if _exit_codes and "sentencepiece" in sys.modules:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(_exit_codes[-1])
