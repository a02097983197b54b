"""What every check here runs in."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from structlog.testing import capture_logs


@pytest.fixture(autouse=True)
def _no_settings_and_no_log(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No settings in the environment; the server does not log to the check's own stdout."""
    for name in ("PORT", "API_KEY", "DEPLOYMENT_CONFIG_JSON"):
        monkeypatch.delenv(name, raising=False)
    with capture_logs():
        yield
