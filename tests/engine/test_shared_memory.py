"""What lies in /dev/shm is this user's own, and goes with the runtime folder."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.engine.environment import RuntimeDir
from app.engine.sglang import shared_memory
from app.engine.sglang.shared_memory import check_own, create_only
from app.errors import ConfigError, StartError

NAME = f"test-serve-hathora-{os.getpid()}"
OTHER_USER = 65534
root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")


@pytest.fixture
def path() -> Iterator[Path]:
    path = Path("/dev/shm") / NAME
    yield path
    path.unlink(missing_ok=True)


def test_it_is_readable_by_its_owner_alone(path: Path) -> None:
    memory = create_only({"port": 1}, NAME)
    memory.close()
    assert pickle.loads(path.read_bytes()) == {"port": 1}
    assert path.stat().st_mode & 0o777 == 0o600
    check_own(NAME)


def test_what_an_earlier_process_left_under_the_name_is_replaced(path: Path) -> None:
    path.write_bytes(b"old" * 1000)
    path.chmod(0o666)
    earlier = path.open("rb")
    create_only("new", NAME).close()
    assert pickle.loads(path.read_bytes()) == "new"
    assert earlier.read(3) == b"old"  # a process that holds it does not share the new one
    earlier.close()


def test_what_another_user_has_put_under_the_name_stops_the_start(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path.write_bytes(b"theirs")

    def refused(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(shared_memory.Path, "unlink", refused)  # as in a sticky folder
    with pytest.raises(ConfigError, match="another user"):
        create_only("new", NAME)
    assert path.read_bytes() == b"theirs"
    monkeypatch.undo()


def test_what_others_can_write_is_not_read(path: Path) -> None:
    path.write_bytes(b"")
    path.chmod(0o660)
    with pytest.raises(StartError, match="not read"):
        check_own(NAME)


@root
def test_what_another_user_owns_is_not_read(path: Path) -> None:
    path.write_bytes(b"")
    path.chmod(0o600)
    os.chown(path, OTHER_USER, OTHER_USER)
    with pytest.raises(StartError, match="not read"):
        check_own(NAME)


def test_the_runtime_folder_removes_what_it_was_told_of(tmp_path: Path) -> None:
    (tmp_path / "runtime").mkdir()
    elsewhere = [tmp_path / "one", tmp_path / "never-made", tmp_path / "two"]
    for file in (*elsewhere[:2], tmp_path / "t*"):
        RuntimeDir(tmp_path / "runtime").also_remove(file)
    elsewhere[0].touch()
    elsewhere[2].touch()
    RuntimeDir(tmp_path / "runtime").remove()
    assert list(tmp_path.iterdir()) == []


TAKE_OVER = """
import os, sys
from pathlib import Path
from app.engine.environment import RuntimeDir
from app.engine.sglang import importing, shared_memory
importing.use_cpu()
runtime = RuntimeDir(Path(sys.argv[1]))
shared_memory.take_over(runtime)
from sglang.srt.managers import multi_tokenizer_mixin
from sglang.srt.managers.load_snapshot import create_load_snapshot_writer, shm_path_for
from sglang.srt.runtime_context import publish
from sglang.srt.server_args import PortArgs, ServerArgs
server_args = ServerArgs(model_path=sys.argv[2], device="cpu")
server_args.resolve_once()
publish(server_args, role="tokenizer")
ports = PortArgs.init_new(server_args)
create_load_snapshot_writer(ports, 1, 0)
multi_tokenizer_mixin.write_data_for_multi_tokenizer(ports, server_args, {})
made = [shm_path_for(ports.instance_id), f"/dev/shm/multi_tokenizer_args_{os.getpid()}"]
assert all(Path(each).exists() for each in made)
runtime.remove()
assert not any(Path(each).exists() for each in made)
print("removed")
"""


@pytest.mark.full
def test_sglangs_files_go_with_the_runtime_folder(tmp_path: Path) -> None:
    from bench import models

    ran = subprocess.run(
        [sys.executable, "-c", TAKE_OVER, str(tmp_path), str(models.find("tiny"))],
        cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert "removed" in ran.stdout, ran.stderr[-2000:]
