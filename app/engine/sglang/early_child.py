"""The main function of a process that early.py starts."""

from __future__ import annotations

import contextlib
import importlib
import os
import pickle
import socket
import sys
from collections.abc import Mapping
from multiprocessing import forkserver, reduction, resource_tracker, spawn

from app.engine.sglang.importing import USES_CPU, use_cpu
from app.engine.sglang.lean import import_less, show_what_was_hidden
from app.spawned import end_with_parent

_args_from_interpreter_flags = importlib.import_module(
    "multiprocessing.util"
)._args_from_interpreter_flags
"""Which its types leave out."""

_MODULES = (
    "sglang.srt.managers.scheduler",
    "sglang.srt.managers.detokenizer_manager",
    "app.engine.sglang.scheduler",
)
_AHEAD = {
    "CUDA_DEVICE_MAX_CONNECTIONS": "8",
    "SGLANG_ENABLE_TORCH_COMPILE": "0",
    "SGLANG_DISABLE_OUTLINES_DISK_CACHE": "0",
    "SGLANG_ENABLE_DETERMINISTIC_INFERENCE": "0",
    "SGLANG_USE_CUDA_IPC_TRANSPORT": "0",
}
"""What SGLang sets before it starts a process, whatever it was (0.5.23: `_set_envs_and_config`,
`serving_hook.py`), as it is without options that say otherwise."""
_UNLESS_SET = {"CUTE_DSL_LOG_LEVEL": "30", "CUTE_DSL_LOG_TO_CONSOLE": "1"}
_LATE = ("NCCL_", "SGLANG_RUN_ID", "TRTLLM_ENABLE_PDL", "SGLANG_OPT_FP8_WO_A_GEMM", "SERVE_")
"""Beginnings of variables that no import here reads."""
_AGAIN = (
    "import sys; sys.path[:] = {path!r}; "
    "from app.engine.sglang.early_child import begin_anew; begin_anew()"
)


def main() -> None:
    _, fd, tracker, on_cpu = sys.argv[1:]
    end_with_parent(int(fd))
    os.set_inheritable(int(fd), False)
    # As `spawn_main` does: else an import that needs one would start another.
    # Its types leave this out.
    resource_tracker._resource_tracker._fd = int(tracker)  # type: ignore[attr-defined]
    os.environ.update(_AHEAD)
    for name, value in _UNLESS_SET.items():
        os.environ.setdefault(name, value)
    # What fails here fails again, and is told, where SGLang imports it.
    with contextlib.suppress(Exception):
        if on_cpu:
            use_cpu()
        import_less(on_cpu=bool(on_cpu))
        for name in _MODULES:
            importlib.import_module(name)
    show_what_was_hidden()
    with socket.socket(fileno=int(fd)) as parent:
        length = int.from_bytes(_received(parent, 4), "big")
        count, environment = pickle.loads(_received(parent, length))  # noqa: S301  # the parent's
        fds: list[int] = reduction.recvfds(parent, count)
    if names := changed(os.environ, environment):
        print("an engine process begins anew, for its variables:", *names, flush=True)
        for each in (*fds, int(tracker)):
            os.set_inheritable(each, True)
        command = [
            sys.executable, *_args_from_interpreter_flags(), "-c", _AGAIN.format(path=sys.path),
            "--multiprocessing-fork", ",".join(map(str, fds)), tracker,
        ]  # fmt: skip
        os.execve(sys.executable, command, environment)  # noqa: S606
    # No more than what differs: all of it moved, the process could not be renamed.
    os.environ.update(dict(environment.items() - os.environ.items()))
    _run(fds, int(tracker))


def begin_anew() -> None:
    _, fds, tracker = sys.argv[1:]
    # Its types leave this out, as in `main`.
    resource_tracker._resource_tracker._fd = int(tracker)  # type: ignore[attr-defined]
    # What fails here fails again, and is told, where SGLang imports it.
    with contextlib.suppress(Exception):
        import_less(on_cpu=os.environ.get(USES_CPU) == "1")
    _run(list(map(int, fds.split(","))), int(tracker))


def changed(own: Mapping[str, str], parents: Mapping[str, str]) -> list[str]:
    """The variables that an import may have read otherwise. What this process alone has was set by
    its own imports, but for the device, at which the parent has guessed."""
    names = {USES_CPU, *parents}
    return sorted(
        name for name in names if own.get(name) != parents.get(name) and not name.startswith(_LATE)
    )


def _run(fds: list[int], tracker: int) -> None:
    """What the parent sends through the first of `fds`; the second is closed by this one's end."""
    end_with_parent(fds[0])
    forkserver._forkserver._inherited_fds = fds[2:]  # type: ignore[attr-defined]
    sys.argv = [sys.argv[0], "--multiprocessing-fork"]
    spawn.spawn_main(fds[0], tracker_fd=tracker)


def _received(parent: socket.socket, length: int) -> bytes:
    """Exits if the parent has nothing to run, or has ended."""
    data = bytearray()
    while len(data) < length:
        if not (some := parent.recv(length - len(data))):
            os._exit(0)
        data += some
    return bytes(data)
