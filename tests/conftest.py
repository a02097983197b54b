"""Before anything is imported: prometheus_client chooses its backend at import."""

import os
import sys
import tempfile

import pytest

os.environ["PROMETHEUS_MULTIPROC_DIR"] = tempfile.mkdtemp(prefix="test-metrics-")
_ended: list[int] = []


def pytest_sessionfinish(exitstatus: int) -> None:
    _ended.append(int(exitstatus))


@pytest.hookimpl(trylast=True)
def pytest_unconfigure() -> None:
    """A library below SGLang's parsers crashes when the interpreter is taken down under pytest; by
    then all has been said."""
    if _ended and "sglang" in sys.modules:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(_ended[-1])
