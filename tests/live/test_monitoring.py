"""Every series that alerts, dashboard and autoscaling use is really served."""

from __future__ import annotations

import re

import pytest

from tests.deploy.test_monitoring import expressions, series
from tests.live.conftest import LiveServer

pytestmark = pytest.mark.live


def test_every_series_in_the_monitoring_files_is_served(live: LiveServer) -> None:
    body = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}
    live.http.post("/v1/chat/completions", json=body).raise_for_status()
    served = set(re.findall(r"^([\w:]+)[{ ]", live.get("/metrics").text, re.MULTILINE))
    used = {name for text in expressions().values() for name in series(text)}
    assert used <= served
