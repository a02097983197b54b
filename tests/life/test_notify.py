"""What systemd is told, over a socket of the test."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from app.life import notify
from app.life.notify import Notifier
from app.lifecycle import Lifecycle, Phase
from tests.support.serving import settings

ROOT = Path(__file__).parents[2]
HANGS_S = 60.0


@contextmanager
def listening(path: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0" + path[1:] if path.startswith("@") else path)
        manager.settimeout(HANGS_S)
        yield manager


def heard(manager: socket.socket) -> dict[str, str]:
    return dict(line.split("=", 1) for line in manager.recv(4096).decode().split("\n"))


@pytest.mark.parametrize("kind", ["a file", "an abstract name"])
async def test_phases_are_told_as_they_are_entered(tmp_path: Path, kind: str) -> None:
    path = str(tmp_path / "n") if kind == "a file" else f"@serve-hathora-{os.getpid()}"
    with listening(path) as manager:
        lifecycle = Lifecycle()
        assert Notifier.of(settings(NOTIFY_SOCKET=path), lifecycle) is not None
        lifecycle.enter(Phase.LOADING)
        lifecycle.enter(Phase.WARMING)
        lifecycle.enter(Phase.READY)
        lifecycle.enter(Phase.LEAVING)
        lifecycle.enter(Phase.DRAINING)
        lifecycle.enter(Phase.STOPPED)
        told = [heard(manager) for _ in range(6)]
    more_time = {"EXTEND_TIMEOUT_USEC": "30000000"}
    assert told == [
        {"STATUS": "loading", **more_time},
        {"STATUS": "warming", **more_time},
        {"READY": "1", "STATUS": "ready"},
        {"STOPPING": "1", "STATUS": "leaving", **more_time},
        {"STOPPING": "1", "STATUS": "draining", **more_time},
        {"STOPPING": "1", "STATUS": "stopped"},
    ]


async def test_a_start_that_takes_long_asks_for_time_and_shows_its_download(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notify, "_TELL_S", 0.01)
    with listening(path := str(tmp_path / "n")) as manager:
        lifecycle = Lifecycle()
        notifier = Notifier(settings(NOTIFY_SOCKET=path), lifecycle)
        lifecycle.enter(Phase.LOADING)
        lifecycle.fetched = 1_500_000_000, 16_000_000_000
        telling = asyncio.create_task(notifier.run())
        told = [await asyncio.to_thread(heard, manager) for _ in range(4)]
        telling.cancel()
    assert told[1]["STATUS"] == "loading: 1.5 of 16.0 GB downloaded"
    assert all("EXTEND_TIMEOUT_USEC" in each for each in told)
    assert "STATUS" not in told[3]


async def test_a_failure_is_told_in_one_line(tmp_path: Path) -> None:
    with listening(path := str(tmp_path / "n")) as manager:
        lifecycle = Lifecycle()
        Notifier(settings(NOTIFY_SOCKET=path), lifecycle)
        lifecycle.enter(Phase.DEAD, "the engine is gone\nREADY=1")
        told = heard(manager)
    assert told == {"STOPPING": "1", "STATUS": "dead: the engine is gone"}


@pytest.mark.parametrize(
    ("reason", "status"),
    [("", "dead"), ("\n", "dead"), ("half \ud83d a pair", "dead: half ? a pair")],
)
async def test_any_reason_is_told(tmp_path: Path, reason: str, status: str) -> None:
    with listening(path := str(tmp_path / "n")) as manager:
        lifecycle = Lifecycle()
        Notifier(settings(NOTIFY_SOCKET=path), lifecycle)
        lifecycle.enter(Phase.DEAD, reason)
        told = heard(manager)
    assert told == {"STOPPING": "1", "STATUS": status}


async def test_what_could_not_be_sent_is_the_first_of_the_next_message(tmp_path: Path) -> None:
    lifecycle = Lifecycle()
    path = str(tmp_path / "n")
    notifier = Notifier(settings(NOTIFY_SOCKET=path), lifecycle)
    lifecycle.enter(Phase.READY)
    with listening(path) as manager:
        telling = asyncio.create_task(notifier.run())
        told = await asyncio.to_thread(heard, manager)
        telling.cancel()
        lifecycle.enter(Phase.DRAINING)
        then = heard(manager)
    assert list(told.items()) == [("READY", "1"), ("STATUS", "ready")]
    assert "READY" not in then


async def test_an_end_that_hangs_gets_no_more_time(tmp_path: Path) -> None:
    with listening(path := str(tmp_path / "n")) as manager:
        for drain_timeout, more_time in (("30", True), ("0", False)):
            lifecycle = Lifecycle()
            Notifier(settings(NOTIFY_SOCKET=path, DRAIN_TIMEOUT=drain_timeout), lifecycle)
            lifecycle.enter(Phase.DRAINING)
            assert ("EXTEND_TIMEOUT_USEC" in heard(manager)) == more_time


async def test_the_watchdog_is_fed_while_the_event_loop_turns(tmp_path: Path) -> None:
    path = str(tmp_path / "n")
    with listening(path) as manager:
        lifecycle = Lifecycle()
        notifier = Notifier(settings(NOTIFY_SOCKET=path, WATCHDOG_USEC="20000"), lifecycle)
        lifecycle.enter(Phase.READY)
        telling = asyncio.create_task(notifier.run())
        told = [await asyncio.to_thread(heard, manager) for _ in range(5)]
        telling.cancel()
    assert all(each["WATCHDOG"] == "1" for each in told)


async def test_a_manager_that_is_gone_is_told_of_once(tmp_path: Path) -> None:
    lifecycle = Lifecycle()
    with capture_logs() as lines:
        Notifier(settings(NOTIFY_SOCKET=str(tmp_path / "no")), lifecycle)
        lifecycle.enter(Phase.LOADING)
        lifecycle.enter(Phase.READY)
    assert [each["event"] for each in lines] == ["NOTIFY_SOCKET cannot be reached"]


def test_without_a_manager_nothing_is_told() -> None:
    assert Notifier.of(settings(), Lifecycle()) is None


@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_server_tells_of_its_life_from_its_first_process_alone(
    tmp_path: Path, processes: str
) -> None:
    with listening(path := str(tmp_path / "n")) as manager:
        manager.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        environment = {
            **os.environ, "ENGINE": "scripted", "NOTIFY_SOCKET": path, "LOG_FILE": "",
            "UDS": str(tmp_path / "s"), "TOKENIZER_WORKERS": processes,
            "STORE_URL": f"sqlite:///{tmp_path}/store.db",
        }  # fmt: skip
        environment.pop("PROMETHEUS_MULTIPROC_DIR", None)
        server = subprocess.Popen(
            [sys.executable, str(ROOT / "serve_hathora.py")],
            env=environment, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        pids, told = set(), ""
        try:
            while "STATUS=stopped" not in told:
                message, ancillary, _, _ = manager.recvmsg(4096, socket.CMSG_SPACE(12))
                pids.add(int.from_bytes(ancillary[0][2][:4], sys.byteorder))
                told += message.decode() + "\n"
                if message.startswith(b"READY=1"):
                    server.send_signal(signal.SIGTERM)
        finally:
            server.kill()
            server.wait()
    assert pids == {server.pid}
    assert told.index("STATUS=warming") < told.index("READY=1") < told.index("STOPPING=1")
