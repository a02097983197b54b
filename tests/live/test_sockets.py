"""On one machine: what others reach of a server, and that its engine inherits no key of the API."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from bench import models
from tests.live.conftest import LiveServer
from tests.live.test_nodes import _model
from tests.support import processes
from tests.support.listening import beyond_loopback, listening

pytestmark = pytest.mark.live
SPLITS = {
    "over two GPUs, with two serving processes": {"TP_SIZE": "2", "TOKENIZER_WORKERS": "2"},
    "two replicas": {"DATA_PARALLEL_SIZE": "2"},
}


def _processes(server: LiveServer) -> list[psutil.Process]:
    return [psutil.Process(server.process.pid), *server.children()]


def test_a_server_that_listens_on_loopback_is_reached_by_no_other_machine(live: LiveServer) -> None:
    addresses = listening(_processes(live))
    assert live.port in {port for _, port in addresses}
    assert beyond_loopback(addresses) == set()


@pytest.mark.rare
@pytest.mark.parametrize("split", SPLITS)
def test_other_machines_reach_the_apis_port_alone_and_the_engine_has_no_key(
    start: Callable[..., LiveServer], tmp_path: Path, split: str
) -> None:
    models.find("demo")
    keys = {"API_KEY": "sk-client", "ADMIN_API_KEY": "sk-operator", "SGLANG_API_KEY": "sk-other"}
    env = {
        "MODEL_PATH": str(_model(tmp_path / "model")), "LOAD_FORMAT": "dummy", "HOST": "0.0.0.0",
        "SGLANG_CPU_OMP_THREADS_BIND": "0|1",
        # The processes' titles do not overwrite their environment, so it can be read here.
        "SPT_NOENV": "1",
    }  # fmt: skip
    server = start(model=None, **env, **keys, **SPLITS[split]).ready()
    assert beyond_loopback(listening(_processes(server))) == {server.port}
    answer = server.http.post(
        "/v1/completions",
        json={"model": "default", "prompt": "Hello", "max_tokens": 4, "ignore_eos": True},
        headers={"authorization": "Bearer sk-client"},
    )
    assert answer.json()["usage"]["completion_tokens"] == 4
    for process in server.children():
        command = processes.title(process)
        if "--process" not in command:  # a serving process, which asks clients for them
            with contextlib.suppress(psutil.NoSuchProcess):  # it has ended since it was listed
                assert "PATH" in process.environ(), command
                assert "sk-" not in str(process.environ()), command
