"""The model's files are fetched and read beside the imports."""

from __future__ import annotations

import json
import os
import threading
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from app.engine.sglang import ahead as module
from app.engine.sglang.ahead import Ahead, Progress, needed, read_ahead
from app.errors import ConfigError, StartError
from app.settings.load import load
from tests.support.hub import hub

FILES = {
    "config.json": '{"architectures": ["LlamaForCausalLM"]}',
    "model.safetensors": b"w" * 3_000_000,
    "tokenizer.json": "{}",
    "README.md": "no",
    "onnx/model.onnx": b"n" * 100,
    "pytorch_model.bin": b"b" * 100,
}
NAME = "some/model"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True, raising=False)
    return tmp_path


def started(cache: Path, url: str, monkeypatch: Any, **settings: str) -> tuple[Ahead, list[Any]]:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE",
        url + "/{repo_id}/resolve/{revision}/{filename}",
    )  # fmt: skip
    reports: list[Any] = []
    chosen = load({}, {"MODEL_PATH": NAME, "DOWNLOAD_DIR": str(cache), **settings}).settings
    ahead = Ahead(chosen.model_path, chosen, lambda *sizes: reports.append(sizes), print)
    ahead.start()
    return ahead, reports


@pytest.mark.full
def test_a_model_is_fetched_with_a_report_and_nothing_that_is_not_needed(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LOOK_S", 0.05)
    with hub(FILES, bytes_per_s=4e6) as url:
        ahead, reports = started(cache, url, monkeypatch)
        ahead.check()
        ahead._thread.join(60)
    (snapshot,) = (cache / "models--some--model/snapshots").iterdir()
    assert {each.name for each in snapshot.iterdir()} == {
        "config.json", "model.safetensors", "tokenizer.json"
    }  # fmt: skip
    assert (snapshot / "model.safetensors").read_bytes() == FILES["model.safetensors"]
    assert ahead.path() == str(snapshot)
    sizes = [done for done, _ in reports]
    assert sizes == sorted(sizes)
    assert any(0 < size < 3_000_000 for size in sizes)
    assert reports[-1][0] == reports[-1][1] >= 3_000_000
    with hub(FILES) as url:  # it is there
        ahead, reports = started(cache, url, monkeypatch)
        ahead.check()
        ahead._thread.join(60)
        assert ahead.path() == str(snapshot)
        drafting = json.dumps({"speculative_algorithm": "NGRAM"})
        ahead, _ = started(cache, url, monkeypatch, ENGINE_ARGS=drafting)
        ahead._thread.join(60)
        assert ahead.path() == NAME
    for more in ({"processor.json": "{}"}, {"modules.json": "{}"}):
        with hub(FILES | more) as url:  # others have filled the cache in part
            ahead, _ = started(cache, url, monkeypatch)
            ahead._thread.join(60)
            assert ahead.path() == NAME
    ahead, _ = started(cache, "http://127.0.0.1:9", monkeypatch)  # no hub
    ahead._thread.join(60)
    assert ahead.path() == NAME
    assert not reports


@pytest.mark.full
@pytest.mark.parametrize(
    ("files", "token", "says"),
    [(FILES, "secret", "not for this HF_TOKEN"), ({}, None, None)],
)
def test_a_model_that_cannot_be_had_is_one_line(
    cache: Path, monkeypatch: pytest.MonkeyPatch, files: Any, token: str | None, says: str | None
) -> None:
    monkeypatch.setenv("HF_TOKEN", "")
    with hub(files, token=token) as url:
        ahead, _ = started(cache, url, monkeypatch)
        if says is None:
            ahead.check()  # SGLang will say what it misses
            return
        with pytest.raises(ConfigError, match=says):
            ahead.check()


@pytest.mark.full
@pytest.mark.parametrize(
    ("refusal", "says"),
    [
        ((404, "RepoNotFound"), r"MODEL_PATH: some/model is not at http.*check the name"),
        ((401, ""), "set HF_TOKEN if it is private"),
        ((403, "GatedRepo"), "is gated: ask for access at .*/some/model, and set HF_TOKEN"),
    ],
)
def test_what_the_hub_refuses_is_told_before_anything_is_imported(
    cache: Path, monkeypatch: pytest.MonkeyPatch, refusal: tuple[int, str], says: str
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(cache))
    with hub(FILES, refuses=refusal) as url:
        ahead, _ = started(cache, url, monkeypatch)
        with pytest.raises(ConfigError, match=says):
            ahead.check_first()


@pytest.mark.full
def test_a_silent_hub_is_mentioned_long_before_the_start_ends(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    monkeypatch.setenv("HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(module, "_HUB_IS_SILENT_S", 0.1)
    monkeypatch.setattr(module, "_HUB_ANSWERS_S", 0.5)
    monkeypatch.setattr(module.log, "warning", lambda line, **_: lines.append(line))
    silent = threading.Event()
    with hub(FILES, silent=silent) as url:
        ahead, _ = started(cache, url, monkeypatch)
        with suppress(StartError):
            ahead.check_first()
        ahead._thread.join(60)
        silent.set()
    assert lines[0] == "the hub has not answered yet"
    with pytest.raises(StartError, match="does not answer"):
        ahead.check()


@pytest.mark.full
def test_a_hub_that_hangs_ends_the_start_unless_the_model_is_here(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(cache))
    for bound in ("_HUB_IS_SILENT_S", "_HUB_ANSWERS_S", "_LOOK_S"):
        monkeypatch.setattr(module, bound, 0.1)
    hangs = threading.Event()
    monkeypatch.setattr(Ahead, "_listing", lambda _, hub: hangs.wait())
    ahead, _ = started(cache, "http://127.0.0.1:9", monkeypatch)
    with pytest.raises(StartError, match=r"the hub \(.*\) has not answered in 0.2 s") as failed:
        ahead.check_first()
    assert failed.value.exit_code == 71
    snapshot = cache / "models--some--model/snapshots/0123"
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors").write_bytes(b"w")
    ahead.check()
    hangs.set()


@pytest.mark.full
def test_a_model_that_is_here_is_not_waited_for(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = cache / "models--some--model/snapshots/0123"
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors").write_bytes(b"w")
    monkeypatch.setenv("HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(Ahead, "check", lambda _: pytest.fail("it waits"))
    chosen = load({}, {"MODEL_PATH": NAME}).settings
    Ahead(NAME, chosen, lambda *_: None, lambda *_: None).check_first()


@pytest.mark.full
def test_without_a_network_and_a_cache_it_says_so(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    ahead, _ = started(cache, "http://127.0.0.1:9", monkeypatch)
    with pytest.raises(ConfigError, match="HF_HUB_OFFLINE forbids to fetch it"):
        ahead.check()


@pytest.mark.full
def test_a_start_without_a_model_says_what_can_be_given() -> None:
    pytest.importorskip("huggingface_hub")
    default = load({}, {}).settings.model_path
    line = str(module._explained(default, OSError("no network")))
    assert line.startswith("no model is set: `serve-hathora NAME_OR_FOLDER`")
    assert "--demo" in line


@pytest.mark.full
def test_the_cache_is_enough_and_without_one_a_silent_hub_is_one_line(
    cache: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    ahead, _ = started(cache, "http://127.0.0.1:9", monkeypatch)
    ahead._thread.join(60)
    with pytest.raises(StartError, match=r"the hub \(.*\) does not answer") as failed:
        ahead.check()
    assert failed.value.exit_code == 71  # it may answer the next time
    snapshot = cache / "models--some--model/snapshots/0123"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    (snapshot / "model.safetensors").write_bytes(b"w")
    for cached in (cache, tmp_path_factory.mktemp("elsewhere")):  # DOWNLOAD_DIR has weights alone
        ahead, _ = started(cached, "http://127.0.0.1:9", monkeypatch)
        ahead._thread.join(60)
        ahead.check()
    (snapshot / "config.json").unlink()
    with hub(FILES, token="secret") as url:  # a token that has expired
        ahead, _ = started(cache, url, monkeypatch)
        ahead._thread.join(60)
        ahead.check()
    with hub(FILES) as url:  # whose model has changed since
        ahead, reports = started(cache, url, monkeypatch)
        ahead._thread.join(60)
        ahead.check()
    assert not reports
    assert len(list(snapshot.parent.iterdir())) == 1


@pytest.mark.full
@pytest.mark.parametrize(
    "settings",
    [
        {"MODEL_PATH": "s3://bucket/model"},
        {"MODEL_PATH": "some/model/file.gguf"},
        {"MODEL_PATH": "some/model:Q4_K_M"},
        {"LOAD_FORMAT": "dummy"},
        {"ENGINE_ARGS": '{"load_format": "remote"}'},
    ],
)
def test_what_sglang_finds_in_its_own_way_is_left_to_it(
    cache: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, str]
) -> None:
    ahead, reports = started(cache, "http://127.0.0.1:9", monkeypatch, **settings)
    ahead.check()
    ahead._thread.join(60)
    assert not reports


@pytest.mark.full
def test_options_of_sglang_count_as_settings_do(
    cache: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    with hub(FILES) as url:
        args = json.dumps({"download_dir": str(elsewhere)})
        ahead, _ = started(cache, url, monkeypatch, ENGINE_ARGS=args)
        ahead._thread.join(60)
    assert (elsewhere / "models--some--model").is_dir()
    assert not list(cache.iterdir())


@pytest.mark.full
def test_what_says_how_many_parts_there_are_comes_before_the_first_of_them(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = {f"model-{no:05}-of-00012.safetensors": b"w" * 100_000 for no in range(1, 13)}
    index = {"weight_map": {f"w{no}": name for no, name in enumerate(parts)}}
    files = {"config.json": "{}", **parts, "model.safetensors.index.json": json.dumps(index)}
    seen = []
    with hub(files, bytes_per_s=2e6) as url:
        ahead, _ = started(cache, url, monkeypatch)
        while ahead._thread.is_alive():
            for snapshot in cache.glob("models--some--model/snapshots/*"):
                names = {each.name for each in snapshot.iterdir()}
                if names & parts.keys():
                    seen.append("model.safetensors.index.json" in names)
    assert seen
    assert all(seen)


def test_of_a_repository_only_what_the_engine_loads_is_needed() -> None:
    sizes = dict.fromkeys(
        ["config.json", "a.safetensors", "consolidated.safetensors", "pytorch_model.bin",
         "original/a.safetensors", "modeling.py", "image.png", "chat_template.jinja"], 1,
    )  # fmt: skip
    assert needed(sizes) == ["a.safetensors", "chat_template.jinja", "config.json", "modeling.py"]
    assert needed(sizes | {"1_Pooling/config.json": 1})[0] == "1_Pooling/config.json"
    assert needed({"consolidated.safetensors": 1, "params.json": 1}) == [
        "consolidated.safetensors", "params.json"
    ]  # fmt: skip
    assert needed({"pytorch_model.bin": 1}) == ["pytorch_model.bin"]
    assert needed({"a-1.bin": 1, "a-2.bin": 1, "config.json": 1}) == []
    assert needed({"config.json": 1, "model.gguf": 1}) == []


def test_progress_is_said_every_few_seconds_with_rate_and_rest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now, lines = 100.0, []
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    monkeypatch.setattr(module.log, "info", lambda event, **values: lines.append(values))
    reports: list[Any] = []
    progress = Progress(1_000_000_000, lambda *sizes: reports.append(sizes))
    for second in range(1, 13):
        now = 100.0 + second
        progress.note(50_000_000 * second)
    assert [(line["mb"], line["mb_per_s"], line["remaining_s"]) for line in lines] == [
        (250, 50.0, 15), (500, 50.0, 10)
    ]  # fmt: skip
    assert reports[-1] == (600_000_000, 1_000_000_000)


def test_weights_are_read_into_memory_once_and_never_past_what_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = SimpleNamespace(available=2**40)
    monkeypatch.setattr(module.psutil, "virtual_memory", lambda: memory)
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"w" * (3 * module._STEP + 5))
    try:
        assert read_ahead([file]) == 0  # just written: it is there
    except OSError:
        pytest.skip("the file system of this folder does not say what is in memory")
    with file.open("rb") as opened:
        os.fsync(opened.fileno())
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    assert read_ahead([file]) <= file.stat().st_size  # a file system may keep some
    monkeypatch.setattr(module, "_not_cached", lambda fd, size: iter([0]))
    reports: list[tuple[int, int]] = []
    size = file.stat().st_size
    assert read_ahead([file, file], lambda *sizes: reports.append(sizes)) == 2 * module._STEP
    assert reports == [(0, 2 * size), (size, 2 * size), (2 * size, 2 * size)]
    assert read_ahead([file]) == module._STEP
    bound = tmp_path / "memory.max"
    monkeypatch.setattr(module, "_CGROUP", bound)
    bound.write_text("max\n")
    assert read_ahead([file]) == module._STEP
    bound.write_text(str(module._LEFT_FREE + file.stat().st_size - 1))  # a container's
    assert read_ahead([file]) == 0
