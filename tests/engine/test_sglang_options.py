"""Options of SGLang: none is taken in silence, and a wrong one is told without importing SGLang."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from app.errors import ConfigError
from app.settings.load import load
from app.settings.sglang_options import FIELDS, NO_EFFECT, REFUSED, RESERVED, SETTINGS


@pytest.mark.parametrize(
    "name", ["incremental_streaming_output", "model_path", "device", "port", "api_key"]
)
def test_options_that_the_server_sets_itself_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"ENGINE_ARGS: {name} cannot be set here: "):
        load({}, {"ENGINE_ARGS": f'{{"{name}": false}}'})


@pytest.mark.parametrize(
    ("environ", "line"),
    [
        ({"ENGINE_ARGS": '{"page_sizes": 1}'}, "no option 'page_sizes'; did you mean page_size?"),
        ({"SGLANG_EXTRA_ARGS": "--enable-http2"}, "SGLang's enable_http2 cannot be honoured"),
        ({"SGLANG_SERVER_CMD": "sglang.launch_server --tool-server x"}, "runs no tools"),
    ],
)
def test_an_option_that_cannot_be_honoured_stops_the_start(
    environ: dict[str, str], line: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        load({}, environ)
    assert line in str(refused.value)


def test_an_option_of_sglangs_http_layer_becomes_the_setting_that_it_is() -> None:
    command = "--stream-response-default-include-usage --log-level-http error --page-size 2"
    loaded = load({}, {"SGLANG_EXTRA_ARGS": command})
    assert loaded.settings.stream_usage is True
    assert loaded.settings.log_level_http == "error"
    assert loaded.settings.engine_args == {"page_size": 2}
    assert loaded.origins["stream_usage"] == (
        "SGLANG_EXTRA_ARGS stream_response_default_include_usage"
    )


def test_such_an_option_and_its_setting_must_agree() -> None:
    environ = {"ENGINE_ARGS": '{"stream_response_default_include_usage": true}'}
    assert load({}, {**environ, "STREAM_USAGE": "true"}).settings.stream_usage
    assert load({}, {**environ, "STREAM_USAGE": "1"}).settings.stream_usage
    with pytest.raises(ConfigError, match="STREAM_USAGE and ENGINE_ARGS stream_response"):
        load({}, {**environ, "STREAM_USAGE": "false"})


def test_of_such_an_option_and_its_setting_in_two_places_the_higher_place_wins() -> None:
    environ = {"ENGINE_ARGS": '{"served_model_name": "A", "log_level_http": null}'}
    assert load({"served-model-name": "a"}, environ).settings.served_model_name == ("a",)
    option = {"engine-args": {"served_model_name": "b"}}
    loaded = load(option, {**environ, "SERVED_MODEL_NAME": "A"})
    assert loaded.settings.served_model_name == ("b",)
    assert loaded.origins["served_model_name"] == "--engine-arg served_model_name"
    assert load({}, {**environ, "LOG_LEVEL_HTTP": "error"}).settings.log_level_http == "error"
    with pytest.raises(ConfigError, match="SERVED_MODEL_NAME and ENGINE_ARGS served_model_name"):
        load({}, {**environ, "SERVED_MODEL_NAME": "a"})


def test_options_without_effect_are_warned_of_and_what_asks_for_nothing_is_not() -> None:
    loaded = load({}, {"SGLANG_EXTRA_ARGS": "--enable-cache-report --skip-server-warmup"})
    assert len(loaded.warnings) == 2
    assert all("no effect (" in each for each in loaded.warnings)
    quiet = load({}, {"ENGINE_ARGS": '{"enable_cache_report": false, "ssl_keyfile": null}'})
    assert quiet.warnings == []
    assert "engine_args" not in quiet.origins
    assert quiet.settings.engine_args == {}


def test_the_scripted_engines_options_are_its_own() -> None:
    environ = {"ENGINE": "scripted", "ENGINE_ARGS": '{"words": 3, "port": 1}'}
    assert load({}, environ).settings.engine_args == {"words": 3, "port": 1}


def test_each_option_is_decided_once_and_exists() -> None:
    tables = [SETTINGS, REFUSED, NO_EFFECT, RESERVED]
    decided = [name for table in tables for name in table]
    assert len(decided) == len(set(decided))
    assert set(decided) <= FIELDS


@pytest.mark.full
def test_the_list_of_names_is_the_installed_releases() -> None:
    pytest.importorskip("sglang")
    from tests.engine.sglang_fields import FILE, fields

    assert FILE.read_text().split() == fields(), "run python -m tests.engine.sglang_fields"


_HTTP = ("srt/entrypoints/", "srt/rust_server/", "cli/", "launch_server.py")
_ENGINE = (
    "srt/entrypoints/engine.py", "srt/entrypoints/EngineBase.py",
    "srt/entrypoints/engine_score_mixin.py", "srt/entrypoints/elastic_ep.py",
    "srt/entrypoints/engine_info_bootstrap_server.py",
)  # fmt: skip
_ELSEWHERE = (
    "test/", "multimodal_gen/", "benchmark/", "lang/", "srt/arg_groups/", "srt/models/", "kernels/",
    "srt/layers/", "srt/server_args.py",
)  # fmt: skip
"""What reads no option, or has attributes of the same names by the hundred."""


@pytest.mark.full
def test_every_option_that_only_sglangs_http_layer_reads_is_decided() -> None:
    spec = importlib.util.find_spec("sglang")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("SGLang is not installed")
    root = Path(spec.submodule_search_locations[0])
    used = re.compile(r"(?:\.|[\"'])([a-z_0-9]+)\b")
    http, engine = set[str](), set[str]()
    for path in root.rglob("*.py"):
        name = path.relative_to(root).as_posix()
        if not name.startswith(_ELSEWHERE):
            reads = set(used.findall(path.read_text())) & FIELDS
            (http if name.startswith(_HTTP) and name not in _ENGINE else engine).update(reads)
    decided = SETTINGS.keys() | REFUSED.keys() | NO_EFFECT.keys() | RESERVED.keys()
    assert http - engine, "the files are not where they were"
    assert http - engine <= decided
