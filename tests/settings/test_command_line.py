"""The command line: modes, the model, flags, and what a mistake is answered with."""

from __future__ import annotations

from typing import Any

import pytest

from app.command.flags import MODES, parser_of
from app.errors import ConfigError
from app.settings.command_line import SHORT, mode_of, read
from app.settings.load import load


def set_by(*words: str) -> dict[str, Any]:
    """What a command line of `serve` sets."""
    parser = parser_of()
    line = mode_of(words, MODES, parser)
    flags = read(line.rest, parser_of(line.mode, parser), MODES)
    return {name: value for name, value in flags.items() if value not in (False, None)}


def refusal(*words: str) -> str:
    with pytest.raises(ConfigError) as refused:
        set_by(*words)
    line = str(refused.value)
    assert "\n" not in line
    return line


def test_the_key_is_not_taken_from_the_command_line() -> None:
    assert "there is no flag" in refusal("--gcp-service-account-key-base64", "c2VjcmV0")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("Qwen/Qwen3-8B", {"model-path": "Qwen/Qwen3-8B"}),
        ("serve Qwen/Qwen3-8B --port 1", {"model-path": "Qwen/Qwen3-8B", "port": "1"}),
        ("--port 1 serve Qwen/Qwen3-8B", {"model-path": "Qwen/Qwen3-8B", "port": "1"}),
        ("--port=1 /models/x serve", {"model-path": "/models/x", "port": "1"}),
        ("--trust-remote-code a/b", {"model-path": "a/b", "trust-remote-code": "true"}),
        ("--trust-remote-code false a/b", {"model-path": "a/b", "trust-remote-code": "false"}),
        ("--no-enable-prefix-caching", {"enable-prefix-caching": "false"}),
        ("--enable-prefix-caching", {"enable-prefix-caching": "true"}),
        ("-tp 2 --dp 4 -pp 2", {"tp-size": "2", "dp-size": "4", "pp-size": "2"}),
        ("-tp=2 -ep", {"tp-size": "2", "enable-expert-parallel": "true"}),
        ("--tp_size 2 --model x", {"tp-size": "2", "model": "x"}),
        ("a/b --model-path a/b", {"model-path": "a/b"}),
        ("--context-length -1", {"context-length": "-1"}),
        ("--log-file=", {"log-file": ""}),
        ("-- serve", {"model-path": "serve"}),
        ("--vllm-extra-args --swap-space=4 -q awq", {"vllm-extra-args": "--swap-space=4",
                                                    "quantization": "awq"}),
        ("--config x.yaml", {"settings-file": "x.yaml"}),
        ("--port 1 --demo --port=1 --demo=true", {"port": "1", "demo": "true"}),
        ("--engine-arg a=1 --engine-arg b=2", {"engine-args": {"a": 1, "b": 2}}),
        ("a/b --api-key k1,k2", {"model-path": "a/b", "api-key": "k1,k2"}),
    ],
)  # fmt: skip
def test_words_are_read_as_vllm_and_sglang_read_them(words: str, expected: dict[str, Any]) -> None:
    assert set_by(*words.split()) == expected


@pytest.mark.parametrize(
    "words",
    [
        '--engine-arg a=1 --engine-args {"b":[2]}',
        '--engine-args {"b":[2]} --engine-arg a=1',
        '--engine-arg a=1 --engine-args {"a":1,"b":[2]} --engine-arg b=[2] --engine-arg a=1',
    ],
)
def test_options_of_the_engine_are_merged_wherever_they_stand(words: str) -> None:
    assert set_by(*words.split()) == {"engine-args": {"a": 1, "b": [2]}}


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("--prot 80", "there is no flag --prot; did you mean --port?"),
        ("serv", "there is no mode 'serv'; did you mean serve? A model of that name:"),
        ("a/b --model c/d", "'a/b' and --model 'c/d' are both the model; keep one"),
        ("a/b c/d", "'c/d' stands alone, and the model is 'a/b' already"),
        ("--port", "--port needs a value: --port PORT"),
        ("--port --demo", "--port needs a value"),
        ("--page-size 32", "an option of SGLang's; set it by --engine-arg page_size=VALUE"),
        ("--swap-space 4", "it would have no effect (SGLang schedules and stores without it)"),
        ("--tool-server x", "SGLang"),
        ("-x 1", "there is no flag -x"),
        ("--no-port", "there is no flag --no-port"),
        ("--engine-arg a=1 --engine-arg a=2", "a is there twice with different values; keep one"),
        ("--engine-arg a-b=1 --engine-arg a_b=true", "a_b is there twice"),
        ('--engine-arg a=1 --engine-args {"a":2}', "--engine-args a and --engine-arg a are the"),
        ('--engine-args {"a":true} --engine-arg a=1', "--engine-args a and --engine-arg a are the"),
        ("--engine-args [1] --engine-arg a=1", "--engine-args: must be a JSON object"),
        ("--engine-arg a=" + "[" * 50_000, "a has more than 32 levels"),
        ("--engine-arg x", "expected NAME=VALUE, got 'x'"),
        ("--api-key k1 sk-2", "a word stands after the value of --api-key: separate several by"),
        ("--served-model-name=a b", "'b' stands after the value of --served-model-name"),
        ("--port 1 --port 2", "--port is there twice with different values; keep one"),
        ("-tp 1 --tp-size=2", "--tp-size is there twice"),
        ("--demo --no-demo", "--demo is there twice"),
        ("--api-key a --api-key b", "keep one; separate several by commas"),
    ],
)
def test_a_mistake_is_one_line_that_says_what_was_meant(words: str, line: str) -> None:
    assert line in refusal(*words.split())


def test_a_value_that_is_the_name_of_a_mode_is_no_mode() -> None:
    line = mode_of(["--served-model-name", "check", "a/b"], MODES, parser_of())
    assert (line.mode, line.rest) == (None, ["--served-model-name", "check", "a/b"])


def test_the_mode_may_stand_after_flags_of_its_own() -> None:
    line = mode_of(["--json", "--base-url", "http://h", "check"], MODES, parser_of())
    assert (line.mode, line.rest) == ("check", ["--json", "--base-url", "http://h"])


def test_flags_of_a_role_may_stand_before_a_model_that_stands_after_two_dashes() -> None:
    parser = parser_of("serve")
    flags = read(["--process", "0:1:2", "--port", "1", "--", "check"], parser, MODES)
    assert (flags["process"], flags["port"], flags["model-path"]) == ("0:1:2", "1", "check")


def test_each_short_flag_leads_to_a_flag() -> None:
    flags = parser_of().flags()
    assert SHORT.keys().isdisjoint(flags)
    assert set(SHORT.values()) <= flags.keys()


def test_a_model_without_a_flag_is_shown_as_the_command_lines() -> None:
    loaded = load(set_by("a/b"), {})
    assert (loaded.settings.model_path, loaded.origins["model_path"]) == ("a/b", "--model-path")


def test_the_model_and_the_demo_exclude_each_other() -> None:
    with pytest.raises(ConfigError, match="--demo and --model-path exclude each other"):
        load(set_by("a/b", "--demo"), {})
