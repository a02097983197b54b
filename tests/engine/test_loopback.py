"""torch.distributed on one machine listens on loopback only. Two processes, no model."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.full

MEMBER = """
import json, os, sys
import psutil, torch
from app.engine.sglang.loopback import keep_to_loopback
from tests.support.listening import listening
rank, url, ours = int(sys.argv[1]), sys.argv[2], sys.argv[3] == "ours"
if ours:
    keep_to_loopback()
torch.distributed.init_process_group("gloo", init_method=url, rank=rank, world_size=2)
total = torch.tensor([rank + 1])
torch.distributed.all_reduce(total)
addresses = sorted(listening([psutil.Process()]))
torch.distributed.barrier()
gloo, nccl = (os.environ.get(f"{name}_SOCKET_IFNAME") for name in ("GLOO", "NCCL"))
print(json.dumps({"total": total.item(), "addresses": addresses, "gloo": gloo, "nccl": nccl}))
"""


def _meet(who: str, **environment: str) -> list[dict[str, Any]]:
    """What each of the two processes says after they have met."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"tcp://127.0.0.1:{probe.getsockname()[1]}"
    members = [
        subprocess.Popen(
            [sys.executable, "-c", MEMBER, str(rank), url, who],
            env={**os.environ, **environment},
            cwd=Path(__file__).parents[2],
            stdout=subprocess.PIPE,
        )
        for rank in (0, 1)
    ]
    answers = [member.communicate(timeout=120)[0] for member in members]
    assert [member.returncode for member in members] == [0, 0]
    return [json.loads(answer) for answer in answers]


def test_processes_that_meet_on_one_machine_listen_on_loopback_only() -> None:
    for said in _meet("ours"):
        assert said["total"] == 3
        assert said["addresses"]
        assert {ip for ip, _ in said["addresses"]} == {"127.0.0.1"}
        assert (said["gloo"], said["nccl"]) == ("lo", "lo")


def test_torch_by_itself_listens_everywhere() -> None:
    """When this fails, torch listens where it is told: drop engine/sglang/loopback.py."""
    first, _ = _meet("torch", GLOO_SOCKET_IFNAME="lo")
    assert {ip for ip, _ in first["addresses"]} > {"127.0.0.1"}


def test_an_interface_that_the_operator_names_is_kept() -> None:
    first, _ = _meet("ours", GLOO_SOCKET_IFNAME="lo", NCCL_SOCKET_IFNAME="eth7")
    assert (first["gloo"], first["nccl"]) == ("lo", "eth7")
