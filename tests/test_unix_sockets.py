"""Unix sockets to listen on, and what is in their place."""

from __future__ import annotations

import fcntl
import os
import socket
import stat
import threading
from pathlib import Path

import pytest

from app import unix_sockets
from app.errors import ConfigError


def bound(path: Path, mode: int = 0o660) -> socket.socket:
    return unix_sockets.bind(str(path), mode=mode, backlog=8)


@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666])
def test_a_socket_has_the_mode_that_was_asked_for(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "s"
    with bound(path, mode):
        found = path.lstat()
        assert stat.S_ISSOCK(found.st_mode)
        assert stat.S_IMODE(found.st_mode) == mode


def test_a_socket_that_cannot_be_opened_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "chmod", refuse)
    with pytest.raises(ConfigError, match=r"UDS: cannot listen on .*: Operation not permitted"):
        bound(tmp_path / "s")
    assert not (tmp_path / "s").exists()


def test_a_dead_socket_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s"
    bound(path).close()
    assert path.exists()
    with bound(path), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


def test_a_socket_that_somebody_listens_on_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with bound(path):
        with pytest.raises(ConfigError, match="UDS: another process listens on"):
            bound(path)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))


def test_a_socket_whose_backlog_is_full_is_not_dead(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(0)
        clients = [socket.socket(socket.AF_UNIX) for _ in range(4)]
        for each in clients:
            each.setblocking(False)
            each.connect_ex(str(path))
        with pytest.raises(ConfigError, match="another process listens"):
            bound(path)
        for each in clients:
            each.close()


@pytest.mark.parametrize("kind", ["file", "folder", "link to a file", "link to nothing", "fifo"])
def test_what_is_not_a_socket_is_left_alone(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "s"
    match kind:
        case "file":
            path.write_text("precious")
        case "folder":
            path.mkdir()
        case "link to a file":
            (tmp_path / "other").write_text("precious")
            path.symlink_to(tmp_path / "other")
        case "link to nothing":
            path.symlink_to(tmp_path / "nothing")
        case "fifo":
            os.mkfifo(path)
    before = path.lstat()
    with pytest.raises(ConfigError, match="is there, and is not a socket"):
        bound(path)
    assert path.lstat().st_ino == before.st_ino


def test_another_users_dead_socket_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "s"
    bound(path).close()
    monkeypatch.setattr(os, "geteuid", lambda: path.lstat().st_uid + 1)
    with pytest.raises(ConfigError, match="is another user's socket"):
        bound(path)
    assert path.exists()


def test_a_folder_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"UDS: cannot open the folder .*/no: No such file"):
        bound(tmp_path / "no" / "s")


def test_one_of_many_servers_that_start_at_once_has_the_place_of_a_dead_one(
    tmp_path: Path,
) -> None:
    path = tmp_path / "s"
    bound(path).close()
    listeners: list[socket.socket] = []
    refused: list[str] = []

    def start() -> None:
        try:
            listeners.append(bound(path))
        except ConfigError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=start) for _ in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert (len(listeners), len(refused)) == (1, 7)
    listeners[0].close()


def test_a_folder_that_stays_locked_ends_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unix_sockets, "_LOCK_S", 0.05)
    held = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    with pytest.raises(ConfigError, match="UDS: another process has locked the folder"):
        bound(tmp_path / "s")
    os.close(held)
    bound(tmp_path / "s").close()


def test_a_socket_whose_file_is_gone_has_nothing_to_remove(tmp_path: Path) -> None:
    with bound(tmp_path / "s") as listener:
        (tmp_path / "s").unlink()
        unix_sockets.remover(listener)()


def test_the_end_removes_its_own_socket_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "s"
    first = bound(path)
    remove = unix_sockets.remover(first)
    first.close()
    with bound(path):
        remove()
        assert path.exists()
        unix_sockets.remover(first_again := bound(tmp_path / "t"))()
        assert not (tmp_path / "t").exists()
        first_again.close()


def test_a_tcp_socket_has_nothing_to_remove() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        unix_sockets.remover(listener)()
        assert unix_sockets.address(listener)["host"] == "127.0.0.1"
