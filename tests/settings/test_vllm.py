"""VLLM_EXTRA_ARGS, VLLM_CONFIG_FILE and SPECULATIVE_CONFIG."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from app.errors import ConfigError
from app.settings.load import load, take_keys, with_keys


def refusal(**environ: str) -> str:
    with pytest.raises(ConfigError) as refused:
        load({}, environ)
    return str(refused.value)


def test_extra_args_win_over_the_environment_which_wins_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "vllm.yaml"
    file.write_text("max-num-seqs: 1\nmax_model_len: 2\nseed: 3\ntensor-parallel-size: 4\n")
    environ = {
        "VLLM_CONFIG_FILE": str(file),
        "MAX_NUM_SEQS": "10",
        "MAX_MODEL_LEN": "20",
        "VLLM_EXTRA_ARGS": "--max-model-len 200 --seed=300",
    }
    loaded = load({"seed": "3000"}, environ)
    settings = loaded.settings
    assert (settings.max_running_requests, settings.context_length) == (10, 200)
    assert (settings.random_seed, settings.tp_size) == (3000, 4)
    assert loaded.origins["context_length"] == "VLLM_EXTRA_ARGS --max-model-len"
    assert loaded.origins["tp_size"] == "VLLM_CONFIG_FILE --tensor-parallel-size"


@pytest.mark.parametrize(
    ("args", "field", "value"),
    [
        ("--no-enable-prefix-caching", "disable_radix_cache", True),
        ("--trust_remote_code", "trust_remote_code", True),
        ("-tp 2", "tp_size", 2),
        ("-tp=2", "tp_size", 2),
        ("--served-model-name a b", "served_model_name", ("a", "b")),
        ("--max-model-len -1", "context_length", None),
        ("--max-num-seqs 1 --max-num-seqs 2", "max_running_requests", 2),
        ("--hf-overrides.rope_theta 1e6", "config_overrides", {"rope_theta": 1e6}),
        (
            "--hf-overrides.text_config.a 1 --hf-overrides.text_config.b x",
            "config_overrides",
            {"text_config": {"a": 1, "b": "x"}},
        ),
        ("--language-model-only", "images", False),
        ("--api-key secret", "api_key", None),
        ("--shutdown-timeout 9", "drain_timeout_s", 9.0),
        ("""--hf-overrides '{"a": "b c"}'""", "config_overrides", {"a": "b c"}),
    ],
)
def test_a_flag_may_be_written_as_vllm_takes_it(args: str, field: str, value: Any) -> None:
    loaded = load({}, {"VLLM_EXTRA_ARGS": args})
    if field == "api_key":
        assert loaded.settings.api_key[0].get_secret_value() == "secret"
    else:
        assert getattr(loaded.settings, field) == value


@pytest.mark.parametrize(
    ("args", "line"),
    [
        ("--max-modl-len 1", "VLLM_EXTRA_ARGS: vLLM has no flag --max-modl-len; did you mean"),
        ("serve --seed 1", "VLLM_EXTRA_ARGS: 'serve' stands before the first flag"),
        ("-x 1", "VLLM_EXTRA_ARGS: '-x' is no flag of vllm serve"),
        ("--seed 'x", "VLLM_EXTRA_ARGS: No closing quotation"),
        ("--seed x", "VLLM_EXTRA_ARGS --seed: must be an integer"),
        ("--grpc", "VLLM_EXTRA_ARGS --grpc cannot be honoured: this server speaks HTTP alone"),
        ("--ssl-ciphers /k", "VLLM_EXTRA_ARGS --ssl-ciphers cannot be honoured"),
        ("--config /x.yaml", "VLLM_EXTRA_ARGS --config cannot be honoured"),
    ],
)
def test_a_flag_that_cannot_be_taken_over_is_named(args: str, line: str) -> None:
    assert refusal(VLLM_EXTRA_ARGS=args).startswith(line)


def test_a_flag_without_effect_is_a_warning_and_one_that_asks_for_nothing_is_none() -> None:
    args = "--async-scheduling --no-enable-sleep-mode --logprobs-mode raw_logprobs --port 8000"
    warnings = load({}, {"VLLM_EXTRA_ARGS": args}).warnings
    assert warnings == [
        "VLLM_EXTRA_ARGS --async-scheduling: no effect (SGLang schedules by itself)",
        "VLLM_EXTRA_ARGS --port: no effect (HOST and PORT apply here)",
    ]


def test_extra_args_win_over_the_place_that_sets_them_and_those_below_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text("VLLM_EXTRA_ARGS=--seed 1 --dtype half\nSEED=2\n")
    (tmp_path / ".env").chmod(0o600)
    file = tmp_path / "a.yaml"
    file.write_text("dtype: float32\n")
    below = {"SETTINGS_FILE": str(file)}
    assert load({}, below).settings.random_seed == 1
    assert load({}, below).settings.dtype == "half"
    assert load({}, {**below, "SEED": "3"}).settings.random_seed == 3
    extra = {"vllm-extra-args": "--seed 4"}
    assert load(extra, {"SEED": "3"}).settings.random_seed == 4
    assert load({**extra, "seed": "5"}, {"SEED": "3"}).settings.random_seed == 5


def test_a_key_in_the_extra_args_is_not_inherited_by_the_engine() -> None:
    environ = {"VLLM_EXTRA_ARGS": "--api-key secret --seed 1", "VLLM_API_KEY": "secret"}
    taken = take_keys(environ)
    assert environ == {}
    assert load({}, with_keys(taken, environ)).settings.random_seed == 1


def test_a_documented_config_file_is_taken_over(tmp_path: Path) -> None:
    file = tmp_path / "qwen3_8b.yaml"
    speculation = {"model": "org/x.eagle3", "method": "eagle3", "num_speculative_tokens": 3}
    file.write_text(
        "model: Qwen/Qwen3-8B\ngpu-memory-utilization: 0.95\nmax-model-len: 8192\ndtype: auto\n"
        "trust-remote-code: true\nquantization: fp8\nkv-cache-dtype: fp8\nenforce-eager: false\n"
        'enable-prefix-caching: true\ncompilation-config: \'{"cudagraph_mode": "PIECEWISE"}\'\n'
        f"speculative-config: '{json.dumps(speculation)}'\n"
    )
    loaded = load({}, {"VLLM_CONFIG_FILE": str(file)})
    settings = loaded.settings
    assert (settings.model_path, settings.context_length) == ("Qwen/Qwen3-8B", 8192)
    assert (settings.kv_cache_dtype, settings.mem_fraction_static) == ("fp8_e4m3", 0.9)
    assert (settings.speculative_algorithm, settings.speculative_num_steps) == ("EAGLE3", 3)
    assert not settings.disable_cuda_graph
    assert any("--compilation-config: no effect" in warning for warning in loaded.warnings)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (None, "cannot be read: No such file"),
        ("a: [", "is not YAML"),
        ("- a", "must have names and their values"),
        ("seed: !!python/object/apply:os.system [ls]", "is not YAML"),
        ("seedling: 1", "vLLM has no flag --seedling; did you mean --seed?"),
        ("seed: {a: 1}", "VLLM_CONFIG_FILE --seed: must be an integer"),
    ],
)
def test_a_config_file_that_cannot_be_read_is_one_line(
    tmp_path: Path, text: str | None, line: str
) -> None:
    file = tmp_path / "vllm.yaml"
    if text is not None:
        file.write_text(text)
    message = refusal(VLLM_CONFIG_FILE=str(file))
    assert line in message
    assert "VLLM_CONFIG_FILE" in message
    assert "\n" not in message


def test_an_empty_config_file_sets_nothing(tmp_path: Path) -> None:
    file = tmp_path / "vllm.yaml"
    file.write_text("# nothing\nseed:\n")
    assert load({}, {"VLLM_CONFIG_FILE": str(file)}).settings.random_seed is None


# -- speculative decoding ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"method": "ngram", "num_speculative_tokens": 8}, ("NGRAM", None, None, None, 8)),
        ({"model": "[ngram]", "prompt_lookup_max": 4}, ("NGRAM", None, None, None, None)),
        (
            {"method": "eagle", "model": "org/d", "num_speculative_tokens": 3},
            ("EAGLE", "org/d", 3, 1, 4),
        ),
        (
            {"model": "org/x-eagle3", "num_speculative_tokens": 2},
            ("EAGLE3", "org/x-eagle3", 2, 1, 3),
        ),
        ({"model": "yuhuili/EAGLE-LLaMA3"}, ("EAGLE", "yuhuili/EAGLE-LLaMA3", None, None, None)),
        (
            {"method": "draft_model", "model": "org/d", "num_speculative_tokens": 5},
            ("STANDALONE", "org/d", 5, 1, 6),
        ),
        ({"model": "org/d", "num_speculative_tokens": 5}, ("STANDALONE", "org/d", 5, 1, 6)),
        ({"method": "deepseek_mtp", "num_speculative_tokens": 1}, ("NEXTN", None, 1, 1, 2)),
    ],
)
def test_vllms_speculation_is_sglangs(config: dict[str, Any], expected: tuple[Any, ...]) -> None:
    loaded = load({}, {"SPECULATIVE_CONFIG": json.dumps(config)})
    settings = loaded.settings
    assert (
        settings.speculative_algorithm, settings.speculative_model, settings.speculative_num_steps,
        settings.speculative_eagle_topk, settings.num_speculative_tokens,
    ) == expected  # fmt: skip
    (warning,) = loaded.warnings
    assert warning.startswith("SPECULATIVE_CONFIG is taken as SPECULATIVE_ALGORITHM=")


def test_what_the_draft_model_is_loaded_as_is_passed_on() -> None:
    config = {"model": "org/d", "revision": "v1", "quantization": "fp8", "enforce_eager": True}
    environ = {
        "SPECULATIVE_CONFIG": json.dumps(config),
        "ENGINE_ARGS": '{"speculative_draft_model_quantization": "awq", "page_size": 1}',
    }
    loaded = load({}, environ)
    assert loaded.settings.engine_args == {
        "speculative_draft_model_revision": "v1",
        "speculative_draft_model_quantization": "awq",
        "page_size": 1,
    }
    assert "without effect in it: enforce_eager" in loaded.warnings[0]


@pytest.mark.parametrize(
    ("config", "line"),
    [
        ({"method": "medusa", "model": "m"}, "SPECULATIVE_CONFIG: SGLang has no method 'medusa'"),
        ({"method": "suffix"}, "SPECULATIVE_CONFIG: SGLang has no method 'suffix'"),
        ({"method": "eagle"}, "SPECULATIVE_CONFIG: the method 'eagle' needs a draft model"),
        ({"num_speculative_tokens": 3}, "SPECULATIVE_CONFIG: the method 'draft_model' needs"),
        ({"model": "m", "speculative_token_tree": "[]"}, "SPECULATIVE_CONFIG: 'speculative_token_"),
        ({"model": 1}, "SPECULATIVE_CONFIG: model must be a text"),
        ({"model": "m", "num_speculative_tokens": 0}, "SPECULATIVE_CONFIG: num_speculative_tokens"),
        ({"model": "m", "num_speculative_tokens": True}, "SPECULATIVE_CONFIG: num_speculative_"),
    ],
)
def test_speculation_that_sglang_has_not_is_refused_by_name(
    config: dict[str, Any], line: str
) -> None:
    assert refusal(SPECULATIVE_CONFIG=json.dumps(config)).startswith(line)


def test_speculation_is_said_once() -> None:
    config = json.dumps({"method": "ngram"})
    assert refusal(SPECULATIVE_CONFIG=config, SPECULATIVE_MODEL="org/d") == (
        "SPECULATIVE_CONFIG and SPECULATIVE_MODEL are the same setting; keep one"
    )
    assert refusal(SPECULATIVE_METHOD="eagle", SPECULATIVE_MODEL="d", SPECULATIVE_ALGORITHM="NGRAM")
    assert refusal(SPECULATIVE_CONFIG="ngram").startswith("SPECULATIVE_CONFIG: must be a JSON obj")


def test_the_older_variables_of_speculation_go_together() -> None:
    environ = {
        "SPECULATIVE_METHOD": "eagle3", "SPECULATIVE_MODEL": "org/d", "NUM_SPECULATIVE_TOKENS": "3",
    }  # fmt: skip
    settings = load({}, environ).settings
    assert (settings.speculative_algorithm, settings.speculative_num_steps) == ("EAGLE3", 3)
    ngram = load({}, {"SPECULATIVE_METHOD": "ngram", "NUM_SPECULATIVE_TOKENS": "4"}).settings
    assert (ngram.speculative_algorithm, ngram.num_speculative_tokens) == ("NGRAM", 4)


# -- other values ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environ", "field", "value"),
    [
        ({"CUSTOM_CHAT_TEMPLATE": "/templates/a.jinja"}, "chat_template", "/templates/a.jinja"),
        ({"CHAT_TEMPLATE": "{{ messages }}"}, "custom_chat_template", "{{ messages }}"),
        ({"MAX_MODEL_LEN": "8k"}, "context_length", 8000),
        ({"MAX_MODEL_LEN": "8K"}, "context_length", 8192),
        ({"MAX_MODEL_LEN": "auto"}, "context_length", None),
        ({"MAX_NUM_BATCHED_TOKENS": "0"}, "max_prefill_tokens", None),
        ({"QUANTIZATION": "None"}, "quantization", None),
        ({"DEVICE": "auto"}, "device", None),
        ({"MODEL_IMPL": "vllm"}, "model_impl", "sglang"),
    ],
)  # fmt: skip
def test_a_value_of_vllms_is_understood(environ: dict[str, str], field: str, value: Any) -> None:
    assert getattr(load({}, environ).settings, field) == value


def test_overrides_of_the_config_are_one_option_of_sglangs() -> None:
    environ = {"HF_OVERRIDES": '{"a": 1, "rope_theta": 2}', "ROPE_THETA": "1000"}
    options = load({}, environ).settings.engine_options()
    assert json.loads(options["json_model_override_args"]) == {"a": 1, "rope_theta": 2}


@pytest.mark.parametrize(
    ("value", "line"),
    [
        ('{"max_new_tokens": 512}', "'max_new_tokens' cannot be honoured"),
        ('{"temperature": 3}', "temperature must be a number from 0 to 2"),
        ('{"top_k": 1.5}', "top_k must be a number from -1"),
        ('{"top_p": true}', "top_p must be a number"),
    ],
)
def test_default_sampling_has_bounds(value: str, line: str) -> None:
    message = refusal(OVERRIDE_GENERATION_CONFIG=value)
    assert message.startswith("OVERRIDE_GENERATION_CONFIG: ")
    assert line in message


def test_variables_of_vllms_own_are_a_warning_but_not_those_of_kubernetes() -> None:
    environ = {
        "VLLM_USE_V1": "1", "VLLM_PORT": "tcp://10.0.0.1:8000", "VLLM_SERVICE_HOST": "10.0.0.1",
        "VLLM_PORT_8000_TCP_ADDR": "10.0.0.1", "VLLM_SERVICE_PORT": "8000",
    }  # fmt: skip
    (warning,) = load({}, environ).warnings
    assert warning == "VLLM_USE_V1: no effect (vLLM's own; SGLang's options are ENGINE_ARGS)"


def test_batches_of_tokens_point_to_the_form_of_their_clients() -> None:
    (warning,) = load({}, {"DEFAULT_BATCH_SIZE": "10"}).warnings
    assert "JOB_OUTPUT=classic" in warning
    assert not load({}, {"DEFAULT_BATCH_SIZE": "50"}).warnings, "the form's default"
    assert not load({}, {"DEFAULT_BATCH_SIZE": "10", "JOB_OUTPUT": "auto"}).warnings
