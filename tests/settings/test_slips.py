"""Names that are nearly a setting's, values that are wrong, numbers with letters."""

from __future__ import annotations

import contextlib

import pytest

from app.errors import ConfigError
from app.settings.load import load


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("TP_SIZES", "TP_SIZE"), ("MODEL_PTH", "MODEL_PATH"), ("LOGLEVEL", "LOG_LEVEL"),
        ("API_KEYS", "API_KEY"), ("MAX_CONCURENCY", "MAX_CONCURRENCY"),
    ],
)  # fmt: skip
def test_a_variable_that_is_nearly_a_setting_is_warned_of(name: str, meant: str) -> None:
    (line,) = load({}, {name: "2"}).warnings
    assert line == f"{name} is no setting and has no effect; did you mean {meant}?"


@pytest.mark.parametrize(
    "name",
    [
        "HOSTNAME", "HOME", "PATH", "LANG", "LOGNAME", "TERM", "SHELL", "USER", "TMPDIR", "PWD",
        "SGLANG_PORTS", "HF_TOKENS", "MODEL_SERVICE_HOST", "DEBUG", "VIRTUAL_ENV", "tp_sizes",
        "API_KEY_FILE_", "STATE_DIRECTORY", "CACHE_DIRECTORY", "NOTIFY_SOCKET", "EDITOR",
    ],
)  # fmt: skip
def test_variables_of_others_are_no_slips(name: str) -> None:
    assert load({}, {name: "2"}).warnings == []


def test_a_slip_in_the_deployments_configuration_is_answered_with_the_nearest() -> None:
    (line,) = load({}, {"DEPLOYMENT_CONFIG_JSON": '{"tp_szie": 2}'}).warnings
    assert line == "DEPLOYMENT_CONFIG_JSON: nothing here is called tp_szie; did you mean tp_size?"


@pytest.mark.parametrize(
    ("name", "text", "field", "value"),
    [
        ("MAX_QUEUE", "4k", "max_queue", 4000),
        ("MAX_QUEUE", "4K", "max_queue", 4096),
        ("KV_POOL_TOKENS", "1.5m", "kv_pool_tokens", 1_500_000),
        ("CONTEXT_LENGTH", "32K", "context_length", 32_768),
        ("MAX_PREFILL_TOKENS", "8k", "max_prefill_tokens", 8000),
        ("MAX_BODY_BYTES", "8MiB", "max_body_bytes", 8 * 2**20),
        ("MAX_BODY_BYTES", "8 MB", "max_body_bytes", 8_000_000),
        ("STORE_MAX_BYTES", "1GiB", "store_max_bytes", 2**30),
        ("FILE_MAX_BYTES", "2G", "file_max_bytes", 2 * 2**30),
    ],
)
def test_numbers_may_have_a_letter(name: str, text: str, field: str, value: int) -> None:
    assert getattr(load({}, {name: text}).settings, field) == value


@pytest.mark.parametrize(
    ("environ", "line"),
    [
        ({"MAX_QUEUE": "4q"}, "MAX_QUEUE: must be an integer, not '4q'"),
        ({"MAX_QUEUE": "4MB"}, "MAX_QUEUE: must be an integer, not '4MB'"),
        ({"MAX_QUEUE": "-1"}, "MAX_QUEUE: must be at least 0, not '-1'"),
        ({"DRAIN_TIMEOUT": "soon"}, "DRAIN_TIMEOUT: must be a number, not 'soon'"),
        ({"TP_SIZE": "many"}, "TP_SIZE: must be an integer or 'auto', not 'many'"),
        ({"LOG_LEVEL": "debgu"}, "not 'debgu'; did you mean debug?"),
        (
            {"ENGINE": "sgland"},
            "ENGINE: must be 'sglang', 'sglang-public' or 'scripted', not 'sgland'",
        ),
        ({"API_KEY": "[1"}, "API_KEY: "),
        ({"ENGINE_ARGS": "[]"}, "ENGINE_ARGS: must be a JSON object"),
    ],
)
def test_a_wrong_value_is_shown(environ: dict[str, str], line: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load({}, environ)
    assert line in str(refused.value)


DEEP = "[" * 50_000
NESTED = '{"x":' * 40 + "1" + "}" * 40


@pytest.mark.parametrize("deep", [DEEP, NESTED], ids=["that no parser reads", "that one does"])
@pytest.mark.parametrize(
    "name",
    [
        "ENGINE_ARGS", "DEPLOYMENT_CONFIG_JSON", "DEFAULT_SAMPLING", "CONFIG_OVERRIDES",
        "SPECULATIVE_CONFIG", "LORA_MODULES",
    ],
)  # fmt: skip
def test_json_that_is_nested_too_deep_is_one_line(name: str, deep: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load({}, {name: deep})
    assert str(refused.value) == f"{name}: has more than 32 levels".replace("JSON:", "JSON")


def test_lists_and_flags_of_others_that_are_nested_too_deep_are_one_line() -> None:
    for environ in (
        {"API_KEY": DEEP},
        {"LIMIT_MM_PER_PROMPT": NESTED},
        {"VLLM_EXTRA_ARGS": f"--speculative-config {DEEP}"},
        {"VLLM_EXTRA_ARGS": f"--speculative-config.x {DEEP}"},
        {"SGLANG_EXTRA_ARGS": f"--preferred-sampling-params {DEEP}"},
        {"DEPLOYMENT_CONFIG_JSON": f'{{"engine_args": {NESTED}}}'},
    ):
        with contextlib.suppress(ConfigError):
            load({}, environ)


def test_a_wrong_value_is_not_shown_if_it_may_be_a_secret() -> None:
    with pytest.raises(ConfigError) as refused:
        load({}, {"DEPLOYMENT_CONFIG_JSON": '{"hf_token": 12345, "api_key": {"sk": 1}}'})
    assert "12345" not in str(refused.value)
    assert "sk" not in str(refused.value)


@pytest.mark.parametrize("word", ["WARN", "warning", "CRITICAL", "FATAL", "TRACE"])
def test_levels_of_other_programs_are_taken(word: str) -> None:
    assert load({}, {"LOG_LEVEL": word}).settings.log_level in ("debug", "warning", "error")
