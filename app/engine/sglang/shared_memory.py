"""What SGLang keeps in /dev/shm beside its processes: removed at the end, and written by us alone.

Written against sglang 0.5.23; `tests/engine/test_sglang_contract.py` fails first when it changes.

sglang_loads_...            what each scheduler last did; SGLang never removes it
multi_tokenizer_args_<pid>  from which the serving processes attach: they unpickle it, so a user
                            who can write it runs code in them
"""

from __future__ import annotations

import os
import pickle
from contextlib import suppress
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any

from app.engine.environment import RuntimeDir
from app.errors import ConfigError, StartError

_FOLDER = Path("/dev/shm")  # noqa: S108


def take_over(runtime: RuntimeDir) -> None:
    """Have the names noted in `runtime`, which removes them, and nothing opened that exists."""
    from sglang.srt.managers import multi_tokenizer_mixin
    from sglang.srt.managers.load_snapshot import shm_path_for
    from sglang.srt.server_args import PortArgs

    new_ports = PortArgs.init_new

    def noted(*args: Any, **more: Any) -> Any:
        ports = new_ports(*args, **more)
        runtime.also_remove(Path(shm_path_for(ports.instance_id)))
        return ports

    def create(content: Any, name: str) -> SharedMemory:
        runtime.also_remove(_FOLDER / name)
        return create_only(content, name)

    PortArgs.init_new = noted
    multi_tokenizer_mixin.write_to_shared_memory = create


def create_only(content: Any, name: str) -> SharedMemory:
    """New shared memory (0600) with the pickled content. Raises ConfigError if another user has the
    name; what an earlier process of ours has left there is removed."""
    pickled = pickle.dumps(content)
    with suppress(OSError):
        (_FOLDER / name).unlink()
    try:
        memory = SharedMemory(name, create=True, size=len(pickled))
    except FileExistsError:
        raise ConfigError(
            f"{_FOLDER / name} belongs to another user, and this server needs it for "
            "TOKENIZER_WORKERS; remove it"
        ) from None
    assert memory.buf is not None
    memory.buf[: len(pickled)] = pickled
    return memory


def check_own(name: str) -> None:
    """Raises StartError unless the shared memory is this user's, and no other user can write it.

    What is this user's cannot be replaced by another: /dev/shm is sticky.
    """
    fd = os.open(_FOLDER / name, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        status = os.fstat(fd)
    finally:
        os.close(fd)
    if status.st_uid != os.geteuid() or status.st_mode & 0o077:
        raise StartError(f"{_FOLDER / name} is open to other users: not read")
