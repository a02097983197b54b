"""A model in RunPod's cache is served without the hub, as a load-balancing endpoint has it."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from bench import models
from tests.live.conftest import LiveServer

pytestmark = pytest.mark.live
NAME, COMMIT = "Org/Tiny-Model", "317b7eb96312eda0c431d1dab1af958a308cb35e"


def cache(root: Path) -> Path:
    folder = root / "models--org--tiny-model"  # in lower case, as it was at times
    snapshot = folder / "snapshots" / COMMIT
    shutil.copytree(models.find("tiny"), snapshot)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(COMMIT)
    return snapshot


def test_a_cached_model_is_served_under_its_name_and_asks_no_hub(
    start: Callable[..., LiveServer], tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as hub:  # it accepts, and never answers
        with socket.create_server(("127.0.0.1", 0)) as free:
            health_port = free.getsockname()[1]
        server = start(
            "--dtype", "float32", model=None, MODEL_NAME=NAME,
            MODEL_CACHE=str(cache(tmp_path / "hub").parents[2]), HF_HOME=str(tmp_path / "home"),
            HF_ENDPOINT=f"http://127.0.0.1:{hub.getsockname()[1]}", HF_HUB_DOWNLOAD_TIMEOUT="1",
            PORT_HEALTH=str(health_port), HEALTH_CHECK_PATH="/status",
            OVERRIDE_GENERATION_CONFIG='{"temperature": 0}', START_TIMEOUT="600",
            REQUEST_TIMEOUT="600",
        ).ready()  # fmt: skip
        hub.setblocking(False)
        with pytest.raises(BlockingIOError):
            hub.accept()
    assert server.get("/v1/models").json()["data"][0]["id"] == NAME
    assert "the hub is not asked" in server.log
    health = f"http://127.0.0.1:{health_port}"
    assert httpx.get(f"{health}/status").status_code == 200
    assert httpx.get(f"{health}/v1/models").status_code == 404
    # The weights are random: only at temperature 0 are two answers the same.
    body = {"model": NAME, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 32}
    texts = {
        server.http.post("/v1/chat/completions", json=body).json()["choices"][0]["message"][
            "content"
        ]
        for _ in range(3)
    }
    assert len(texts) == 1
