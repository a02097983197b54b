"""Preparing the demo models. The index is a server on 127.0.0.1, the conversion is pretended."""

import errno
import hashlib
import io
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any, NoReturn

import pytest

from app.engine import demo


def packed(gguf: bytes) -> bytes:
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w") as archive:
        archive.writestr(demo.CHAT.packed, gguf)
        archive.writestr("../outside.txt", "never unpacked")
    return memory.getvalue()


GGUF = bytes(range(256)) * 4000
WHEEL = packed(GGUF)
SMALL = replace(demo.CHAT, sha256=hashlib.sha256(WHEEL).hexdigest(), needed_bytes=10_000_000)


def pretend(gguf: Path, fresh: Path, *, say: demo.Say) -> None:
    assert gguf.read_bytes() == GGUF
    fresh.mkdir()
    for name in SMALL.files:
        (fresh / name).write_text("{}")


@pytest.fixture(autouse=True)
def small_and_local(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(demo.MODELS, SMALL.name, SMALL)
    monkeypatch.setattr(demo, "RETRY_WAITS_S", (0.0, 0.0))
    monkeypatch.setattr(demo, "_convert", pretend)
    monkeypatch.setattr(demo, "_wheel_url", lambda _: pytest.fail("the index was asked"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@contextmanager
def index(
    monkeypatch: pytest.MonkeyPatch, *, ranges: bool = True, cuts: int = 0, status: int = 0
) -> Iterator[list[str | None]]:
    """Serve WHEEL, the first `cuts` times only half of it; yields the Range headers asked for."""
    asked: list[str | None] = []

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.headers["range"])
            start = int((self.headers["range"] or "bytes=0-")[6:-1]) if ranges else 0
            if status or start >= len(WHEEL):
                self.send_error(status or 416)
                return
            body = WHEEL[start:]
            self.send_response(206 if start else 200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: len(body) // 2] if len(asked) <= cuts else body)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        url = f"http://127.0.0.1:{server.server_port}/{SMALL.wheel}"
        monkeypatch.setattr(demo, "_wheel_url", lambda _: url)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield asked
        finally:
            server.shutdown()
            thread.join()


def partial_in(cache: Path, content: bytes) -> Path:
    path = cache / f"{SMALL.wheel}.partial"
    path.write_bytes(content)
    return path


def wheel_in(cache: Path) -> None:
    (cache / SMALL.wheel).write_bytes(WHEEL)


def left_in(cache: Path) -> set[str]:
    return {path.name for path in cache.iterdir()}


COMPLETE = {SMALL.name, "demo.lock"}


def test_looking_for_the_model_loads_no_model_library():
    code = (
        "import app.engine.demo, sys; print({'torch', 'transformers', 'sglang'} & {*sys.modules})"
    )
    root = Path(demo.__file__).parents[2]
    looked = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=root
    )
    assert looked.stdout == "set()\n"


def test_a_fresh_cache_ends_with_the_model_and_nothing_else(tmp_path, monkeypatch):
    cache, lines = tmp_path / "not" / "there", []
    with index(monkeypatch) as asked:
        model = demo.ensure(cache, SMALL, say=lines.append)
    assert model == demo.find(cache, SMALL) == cache / SMALL.name
    assert asked == [None]
    assert left_in(cache) == COMPLETE
    assert not (tmp_path / "outside.txt").exists()
    assert sum("downloaded" in line for line in lines) <= 5


def test_a_complete_model_is_taken_without_asking_the_index(tmp_path):
    wheel_in(tmp_path)
    assert demo.ensure(tmp_path, SMALL, say=print) == demo.ensure(tmp_path, SMALL, say=pytest.fail)


def test_a_partial_download_goes_on_where_it_stopped(tmp_path, monkeypatch):
    partial_in(tmp_path, WHEEL[:1000])
    with index(monkeypatch) as asked:
        demo.ensure(tmp_path, SMALL, say=print)
    assert asked == ["bytes=1000-"]


def test_a_server_without_ranges_starts_anew(tmp_path, monkeypatch):
    partial_in(tmp_path, b"x" * 1000)
    with index(monkeypatch, ranges=False) as asked:
        assert demo.ensure(tmp_path, SMALL, say=print)
    assert asked == ["bytes=1000-"]


def test_a_partial_longer_than_the_whole_starts_anew(tmp_path, monkeypatch):
    partial_in(tmp_path, b"x" * (len(WHEEL) + 1))
    with index(monkeypatch) as asked:
        assert demo.ensure(tmp_path, SMALL, say=print)
    assert asked == [f"bytes={len(WHEEL) + 1}-", None]


def test_a_whole_partial_is_not_fetched_again(tmp_path):
    partial_in(tmp_path, WHEEL)
    assert demo.ensure(tmp_path, SMALL, say=print)
    assert left_in(tmp_path) == COMPLETE


def test_a_broken_download_is_continued(tmp_path, monkeypatch):
    with index(monkeypatch, cuts=2) as asked:
        assert demo.ensure(tmp_path, SMALL, say=print)
    half, three_quarters = len(WHEEL) // 2, len(WHEEL) // 2 + (len(WHEEL) - len(WHEEL) // 2) // 2
    assert asked == [None, f"bytes={half}-", f"bytes={three_quarters}-"]


def test_a_connection_that_keeps_breaking_gives_up_and_keeps_what_it_has(tmp_path, monkeypatch):
    with index(monkeypatch, cuts=99) as asked, pytest.raises(demo.DemoModelError):
        demo.ensure(tmp_path, SMALL, say=print)
    assert len(asked) == 3
    assert (tmp_path / f"{SMALL.wheel}.partial").stat().st_size > len(WHEEL) // 2


@pytest.mark.parametrize(("status", "requests"), [(404, 1), (403, 1), (503, 3), (429, 3)])
def test_only_transient_errors_are_retried(tmp_path, monkeypatch, status, requests):
    with index(monkeypatch, status=status) as asked, pytest.raises(demo.DemoModelError) as raised:
        demo.ensure(tmp_path, SMALL, say=print)
    assert len(asked) == requests
    assert str(status) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_an_interrupt_while_downloading_keeps_the_partial(tmp_path, monkeypatch):
    def interrupt(line: str) -> None:
        if line.startswith("downloaded"):
            raise KeyboardInterrupt

    with index(monkeypatch) as asked:
        with pytest.raises(KeyboardInterrupt):
            demo.ensure(tmp_path, SMALL, say=interrupt)
        have = (tmp_path / f"{SMALL.wheel}.partial").stat().st_size
        assert demo.ensure(tmp_path, SMALL, say=print)
    assert 0 < have < len(WHEEL)
    assert asked == [None, f"bytes={have}-"]


def test_a_wrong_hash_is_refused_named_and_removed(tmp_path, monkeypatch):
    other = replace(SMALL, sha256="f" * 64)
    with index(monkeypatch), pytest.raises(demo.DemoModelError) as raised:
        demo.ensure(tmp_path, other, say=print)
    assert hashlib.sha256(WHEEL).hexdigest() in str(raised.value)
    assert "f" * 64 in str(raised.value)
    assert left_in(tmp_path) == {"demo.lock"}


def test_a_local_index_is_copied_from(tmp_path, monkeypatch):
    source = tmp_path / "the wheels"
    source.mkdir()
    wheel_in(source)
    monkeypatch.setattr(demo, "_wheel_url", lambda _: (source / SMALL.wheel).as_uri())
    assert demo.ensure(tmp_path / "cache", SMALL, say=print)
    assert (source / SMALL.wheel).exists()


def test_of_two_processes_one_converts_and_the_other_says_that_it_waits(tmp_path, monkeypatch):
    waiting, converted, models = threading.Event(), [], []

    def convert(gguf: Path, fresh: Path, *, say: demo.Say) -> None:
        assert waiting.wait(10)
        converted.append(fresh)
        pretend(gguf, fresh, say=say)

    def say(line: str) -> None:
        if "waiting" in line:
            waiting.set()

    monkeypatch.setattr(demo, "_convert", convert)
    wheel_in(tmp_path)
    pair = [
        threading.Thread(target=lambda: models.append(demo.ensure(tmp_path, SMALL, say=say)))
        for _ in range(2)
    ]
    for thread in pair:
        thread.start()
    for thread in pair:
        thread.join()
    assert len(converted) == 1
    assert models == [tmp_path / SMALL.name] * 2


def test_a_process_killed_while_converting_leaves_no_model_and_no_lock(tmp_path, monkeypatch):
    fork = multiprocessing.get_context("fork")
    begun = fork.Event()
    wheel_in(tmp_path)
    monkeypatch.setattr(demo, "_convert", hanging_after_writing(begun))
    victim = fork.Process(target=demo.ensure, args=(tmp_path, SMALL), kwargs={"say": print})
    victim.start()
    assert begun.wait(10)
    os.kill(victim.pid or 0, signal.SIGKILL)
    victim.join()
    assert demo.find(tmp_path, SMALL) is None
    assert left_in(tmp_path) > {f"{SMALL.name}.converting"}

    monkeypatch.setattr(demo, "_convert", pretend)
    assert demo.ensure(tmp_path, SMALL, say=print) == demo.find(tmp_path, SMALL)
    assert left_in(tmp_path) == COMPLETE


def hanging_after_writing(begun: Event) -> Callable[..., None]:
    def convert(gguf: Path, fresh: Path, *, say: demo.Say) -> None:
        pretend(gguf, fresh, say=say)
        begun.set()
        time.sleep(60)

    return convert


@pytest.mark.parametrize("fault", [KeyboardInterrupt(), RuntimeError("first line\nsecond line")])
def test_an_interrupted_conversion_is_cleaned_and_keeps_the_wheel(tmp_path, monkeypatch, fault):
    def convert(gguf: Path, fresh: Path, *, say: demo.Say) -> NoReturn:
        pretend(gguf, fresh, say=say)
        raise fault

    monkeypatch.setattr(demo, "_convert", convert)
    wheel_in(tmp_path)
    with pytest.raises((KeyboardInterrupt, demo.DemoModelError)) as raised:
        demo.ensure(tmp_path, SMALL, say=print)
    assert "second line" not in str(raised.value)
    assert left_in(tmp_path) == {SMALL.wheel, "demo.lock"}


@pytest.mark.parametrize("name", [*SMALL.files, demo.MANIFEST])
def test_a_model_with_a_file_missing_or_cut_is_made_anew(tmp_path, name):
    wheel_in(tmp_path)
    model = demo.ensure(tmp_path, SMALL, say=print)
    for spoil in (Path.unlink, lambda path: path.write_text("{")):
        spoil(model / name)
        assert demo.find(tmp_path, SMALL) is None
        wheel_in(tmp_path)
        assert demo.ensure(tmp_path, SMALL, say=print) == demo.find(tmp_path, SMALL)


def test_a_conversion_that_forgets_a_file_is_refused(tmp_path, monkeypatch):
    def convert(gguf: Path, fresh: Path, *, say: demo.Say) -> None:
        pretend(gguf, fresh, say=say)
        (fresh / "chat_template.jinja").unlink()

    monkeypatch.setattr(demo, "_convert", convert)
    wheel_in(tmp_path)
    with pytest.raises(demo.DemoModelError, match=r"chat_template\.jinja"):
        demo.ensure(tmp_path, SMALL, say=print)
    assert demo.find(tmp_path, SMALL) is None


def test_a_conversion_that_writes_nonsense_is_refused(tmp_path, monkeypatch):
    def convert(gguf: Path, fresh: Path, *, say: demo.Say) -> None:
        pretend(gguf, fresh, say=say)
        (fresh / "config.json").write_text("{")

    monkeypatch.setattr(demo, "_convert", convert)
    wheel_in(tmp_path)
    with pytest.raises(demo.DemoModelError):
        demo.ensure(tmp_path, SMALL, say=print)
    assert left_in(tmp_path) == {SMALL.wheel, "demo.lock"}


def test_a_full_disk_is_reported_before_anything_is_fetched(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=5_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(demo.DemoModelError, match=r"needs 10 MB, .* has 5 MB free"):
        demo.ensure(tmp_path, SMALL, say=print)


def pip_says(monkeypatch: pytest.MonkeyPatch, code: int, out: str, err: str) -> None:
    done = subprocess.CompletedProcess([], code, out, err)
    monkeypatch.undo()  # the real _wheel_url again
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)


def test_the_wheels_address_comes_from_pips_report(monkeypatch):
    pip_says(monkeypatch, 0, '{"install": [{"download_info": {"url": "file:///w.whl"}}]}', "")
    assert demo._wheel_url("a==1") == "file:///w.whl"


@pytest.mark.parametrize(
    ("code", "out", "err", "reason"),
    [
        (1, "", "WARNING: slow\nERROR: none found\nERROR: really none\n", "ERROR: none found"),
        (2, "", "usage: pip\n\nno such option: --report\n", "no such option"),
        (-9, "", "", "exit code -9"),
        (0, "not json", "", "names no wheel"),
        (0, '{"install": []}', "", "names no wheel"),
    ],
)
def test_a_failure_of_pip_is_one_line_and_an_exit_code(
    monkeypatch, tmp_path, capsys, code, out, err, reason
):
    pip_says(monkeypatch, code, out, err)
    assert demo.main(["--cache", str(tmp_path)]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = [line for line in printed.err.splitlines() if not line.startswith("asking")]
    assert line.startswith("error: ")
    assert reason in line


def test_a_python_without_pip_is_an_error_of_one_line(monkeypatch, tmp_path, capsys):
    monkeypatch.undo()
    monkeypatch.setattr(demo.importlib.util, "find_spec", lambda _: None)
    assert demo.main(["--cache", str(tmp_path)]) == 1
    assert "pip, which finds the demo model, is missing" in capsys.readouterr().err


def test_a_cache_that_cannot_be_written_is_one_line(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert demo.main(["--cache", str(tmp_path / "file")]) == 1
    assert os.strerror(errno.EEXIST) in capsys.readouterr().err


def test_a_model_that_lies_ready_in_its_wheel_is_only_unpacked(tmp_path, monkeypatch, capsys):
    wheel = tmp_path / demo.EMBEDDING.wheel
    with zipfile.ZipFile(wheel, "w") as archive:
        for name in demo.EMBEDDING.files:
            archive.writestr(f"{demo.EMBEDDING.packed}/{name}", f'"{name}"')
        archive.writestr(f"{demo.EMBEDDING.packed}/../outside.txt", "never unpacked")
    ready = replace(demo.EMBEDDING, sha256=hashlib.sha256(wheel.read_bytes()).hexdigest())
    monkeypatch.setitem(demo.MODELS, ready.name, ready)
    assert demo.main(["--cache", str(tmp_path), "--model", ready.name]) == 0
    model = demo.find(tmp_path, ready)
    assert model == tmp_path / ready.name
    assert capsys.readouterr().out == f"{model}\n"
    assert left_in(tmp_path) == {ready.name, "demo.lock"}
    assert (model / "1_Pooling" / "config.json").read_text() == '"1_Pooling/config.json"'


def test_the_command_prints_only_the_models_path_on_stdout(tmp_path, capsys):
    wheel_in(tmp_path)
    assert demo.main(["--cache", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"{tmp_path / SMALL.name}\n"
