"""Unix sockets to listen on: made in the place of a dead one, never of another file.

A server that was killed leaves its socket as a file. It is recognised by three signs: it is a
socket, it belongs to this user, and connecting to it is refused.
"""

from __future__ import annotations

import fcntl
import os
import socket
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from app.errors import ConfigError

_LOCK_S = 5.0
"""For servers that start at the same moment. Any user who may open the folder can hold it."""


def bind(path: str, *, mode: int, backlog: int) -> socket.socket:
    """A listening socket at `path`. Raises ConfigError if something else is there."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with _alone_in(Path(path).parent):
            _remove_dead(path)
            listener.bind(path)
            remove = remover(listener)
            try:
                os.chmod(path, mode)  # before `listen`: until then no client can connect
                listener.listen(backlog)
            except OSError:
                remove()
                raise
    except OSError as error:
        listener.close()
        raise ConfigError(f"UDS: cannot listen on {path}: {error.strerror or error}") from None
    except ConfigError:
        listener.close()
        raise
    return listener


def remover(listener: socket.socket) -> Callable[[], None]:
    """Removes the file of a listening socket, unless another one has taken its place since. For a
    socket of TCP it does nothing."""
    if listener.family != socket.AF_UNIX:
        return lambda: None
    path = str(listener.getsockname())
    try:
        ours = _identity(path)
    except OSError:  # it is gone already
        return lambda: None

    def remove() -> None:
        with suppress(OSError):  # it is gone, or so is the right to remove it
            if _identity(path) == ours:
                os.unlink(path)

    return remove


def address(listener: socket.socket) -> dict[str, str | int]:
    """Where a socket listens, as fields of a log line."""
    name = listener.getsockname()
    return {"uds": name} if isinstance(name, str) else {"host": name[0], "port": name[1]}


def _identity(path: str) -> tuple[int, int, int]:
    """File systems use the number of a file that is gone again at once, so it also takes the time
    at which the socket was made; changes of its mode and owner leave that as it is."""
    found = os.lstat(path)
    return found.st_dev, found.st_ino, found.st_mtime_ns


def _remove_dead(path: str) -> None:
    """Raises ConfigError if what is at `path` is not a dead socket of this user."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise ConfigError(f"UDS: {path} is there, and is not a socket; remove it or name another")
    if found.st_uid != os.geteuid():
        raise ConfigError(f"UDS: {path} is there, and is another user's socket; name another")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(1.0)  # with a full backlog `connect` would wait: that one is not dead
        try:
            client.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except OSError:
            pass
    raise ConfigError(f"UDS: another process listens on {path}")


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Two servers that start at the same moment must not remove each other's socket."""
    try:
        held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise ConfigError(f"UDS: cannot open the folder {folder}: {error.strerror}") from None
    try:
        _lock(held, folder)
        yield
    finally:
        os.close(held)


def _lock(held: int, folder: Path) -> None:
    latest = time.monotonic() + _LOCK_S
    while True:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= latest:
                raise ConfigError(
                    f"UDS: another process has locked the folder {folder} for over {_LOCK_S:g} s"
                ) from None
        time.sleep(0.02)  # a lock of another process cannot be waited for with a deadline
