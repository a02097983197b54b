"""One model over two nodes: two processes on loopback, each with half of a small random model."""

from __future__ import annotations

import json
import shutil
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.live.conftest import LiveServer

pytestmark = [pytest.mark.live, pytest.mark.rare]
DEMO = Path("~/.cache/serve-hathora/SmolLM2-135M-Instruct").expanduser()


def _model(folder: Path) -> Path:
    """The demo model's tokenizer, and a config whose heads can be halved; weights are random."""
    folder.mkdir()
    for file in DEMO.glob("*.json*"):
        shutil.copy(file, folder)
    shutil.copy(DEMO / "chat_template.jinja", folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 72,
               "num_hidden_layers": 2}  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_node_0_serves_node_1_answers_health_and_both_end_together(
    live: LiveServer, start: Callable[..., LiveServer], tmp_path: Path
) -> None:
    assert live.get("/readyz").status_code == 200  # so the demo model's files are there
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        rendezvous = f"127.0.0.1:{probe.getsockname()[1]}"
    env = {
        "MODEL_PATH": str(_model(tmp_path / "model")), "LOAD_FORMAT": "dummy", "TP_SIZE": "2",
        "NNODES": "2", "DIST_INIT_ADDR": rendezvous, "SGLANG_CPU_OMP_THREADS_BIND": "0|1",
    }  # fmt: skip
    first, second = (start(model=None, NODE_RANK=rank, **env) for rank in ("0", "1"))
    first.ready()
    second.wait_for("/health", 200)
    body = {"model": "default", "prompt": "Hello", "max_tokens": 4}
    answer = first.http.post("/v1/completions", json=body)
    assert answer.json()["usage"]["completion_tokens"] == 4
    refused = second.http.post("/v1/completions", json=body)
    assert refused.status_code == 503
    assert "node 0 serves" in refused.json()["error"]["message"]
    assert second.get("/readyz").status_code == 503
    assert second.get("/livez").status_code == 200
    first.process.send_signal(signal.SIGTERM)
    assert first.exit_code(30) == 0
    assert second.exit_code(30) == 70
