"""Where a setting comes from, what it may be called, and what is said when it is wrong."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import pytest

from app.errors import ConfigError
from app.settings import catalogue as settings
from app.settings.catalogue import Settings, describe, load, markdown


def flags(*argv: str) -> dict[str, object]:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    settings.add_arguments(parser)
    return vars(parser.parse_args(argv))


def origin(loaded: settings.Loaded, name: str) -> tuple[str, str]:
    return next((value, where) for each, value, where in describe(loaded) if each == name)


def test_the_command_line_wins_over_the_environment_over_the_deployment_over_the_default() -> None:
    environ = {"DEPLOYMENT_CONFIG_JSON": '{"port": 1, "tp_size": 2, "max_queue": 3}', "PORT": "4"}
    loaded = load(flags("--port", "5"), environ)
    assert origin(loaded, "PORT") == ("5", "--port")
    assert origin(load({}, environ), "PORT") == ("4", "PORT")
    assert origin(loaded, "TP_SIZE") == ("2", "DEPLOYMENT_CONFIG_JSON tp_size")
    assert origin(loaded, "MAX_CONCURRENCY") == ("512", "default")


@pytest.mark.parametrize(
    ("name", "field"), [("TP_SIZE", "tp_size"), ("TENSOR_PARALLEL_SIZE", "tp_size")]
)
def test_every_name_works_everywhere(name: str, field: str) -> None:
    flag = "--" + name.lower().replace("_", "-")
    assert getattr(load({}, {name: "2"}).settings, field) == 2
    assert getattr(load(flags(flag, "2"), {}).settings, field) == 2
    deployed = {"DEPLOYMENT_CONFIG_JSON": f'{{"{name.lower()}": 2}}'}
    assert getattr(load({}, deployed).settings, field) == 2


def test_two_names_with_one_value_are_fine_and_with_two_are_not() -> None:
    assert load({}, {"TP_SIZE": "2", "TENSOR_PARALLEL_SIZE": "2"}).settings.tp_size == 2
    with pytest.raises(ConfigError, match="TP_SIZE and TENSOR_PARALLEL_SIZE are the same setting"):
        load({}, {"TP_SIZE": "2", "TENSOR_PARALLEL_SIZE": "4"})
    with pytest.raises(ConfigError, match="--tp-size and --tensor-parallel-size"):
        load(flags("--tp-size", "1", "--tensor-parallel-size", "2"), {})


@pytest.mark.parametrize(
    ("environ", "says"),
    [
        ({"PORT": "http"}, "PORT: input should be a valid integer"),
        ({"PORT": "70000"}, "PORT: input should be less than or equal to 65535"),
        ({"MAX_CONCURRENCY": "0"}, "MAX_CONCURRENCY: input should be greater than or equal to 1"),
        ({"LOG_LEVEL": "loud"}, "LOG_LEVEL: input should be 'debug', 'info', 'warning' or 'error'"),
        ({"LOG_FORMAT": "xml"}, "LOG_FORMAT: input should be"),
        ({"TRUST_REMOTE_CODE": "maybe"}, "TRUST_REMOTE_CODE: input should be a valid boolean"),
        ({"DEPLOYMENT_CONFIG_JSON": "["}, "DEPLOYMENT_CONFIG_JSON is not JSON"),
        ({"DEPLOYMENT_CONFIG_JSON": "[]"}, "DEPLOYMENT_CONFIG_JSON must be a JSON object"),
        ({"ENGINE_ARGS": "{"}, "ENGINE_ARGS: "),
        ({"SKIP_TOKENIZER_INIT": "true"}, "SKIP_TOKENIZER_INIT=true cannot be honoured"),
        ({"QUANTIZATION": "squeezellm"}, "QUANTIZATION=squeezellm is gone"),
    ],
)
def test_a_wrong_value_is_one_line_that_names_the_setting(
    environ: dict[str, str], says: str
) -> None:
    with pytest.raises(ConfigError) as error:
        load({}, environ)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_empty_means_not_set_but_an_empty_log_file_means_none() -> None:
    loaded = load({}, {"PORT": "", "LOG_FILE": ""})
    assert loaded.settings.port == 8000
    assert loaded.settings.log_file == ""


def test_lists_are_separated_by_commas_or_json() -> None:
    assert load({}, {"CORS_ORIGINS": "a, b,"}).settings.cors_origins == ("a", "b")
    assert load({}, {"CORS_ORIGINS": '["a", "b"]'}).settings.cors_origins == ("a", "b")


def test_engine_options_are_what_is_set_and_nothing_else() -> None:
    environ = {"MODEL_PATH": "m", "KV_POOL_TOKENS": "9", "MAX_TOTAL_TOKENS": "5", "DTYPE": "auto"}
    options = load({}, environ).settings.engine_options()
    assert options == {
        "model_path": "m", "max_total_tokens": 9, "dtype": "auto", "tool_call_parser": "auto",
        "reasoning_parser": "auto",
    }  # fmt: skip


def test_engine_args_are_merged_over_the_layers() -> None:
    environ = {"ENGINE_ARGS": '{"page_size": 16, "watchdog_timeout": 9}'}
    loaded = load(flags("--engine-arg", "page-size=32", "--engine-arg", "dtype=half"), environ)
    assert loaded.settings.engine_args == {
        "page_size": 32, "watchdog_timeout": 9, "dtype": "half",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("environ", "field", "value"),
    [
        ({"LOAD_BALANCE_METHOD": "shortest_queue"}, "load_balance_method", "total_requests"),
        ({"QUANTIZATION": "marlin"}, "quantization", "gptq_marlin"),
        ({"ENABLE_FLASHINFER_MLA": "true"}, "attention_backend", "flashinfer"),
    ],
)
def test_what_is_obsolete_is_translated_with_a_warning(
    environ: dict[str, str], field: str, value: str
) -> None:
    loaded = load({}, environ)
    assert getattr(loaded.settings, field) == value
    assert "is obsolete: taken as" in loaded.warnings[0]


def test_requests_are_logged_with_content_only_at_debug() -> None:
    quiet = load({}, {"LOG_REQUESTS": "true"}).settings.engine_options()
    loud = load({}, {"LOG_REQUESTS": "true", "LOG_LEVEL": "DEBUG"}).settings.engine_options()
    assert (quiet["log_requests_level"], loud["log_requests_level"]) == (1, 3)


def test_secrets_are_never_shown() -> None:
    loaded = load({}, {"API_KEY": "sk-one,sk-two"})
    assert "sk-one" not in repr(loaded.settings)
    assert not any("sk-" in value for _, value, _ in describe(loaded))
    assert [key.get_secret_value() for key in loaded.settings.api_key] == ["sk-one", "sk-two"]


def test_the_documentation_is_what_the_settings_say() -> None:
    written = (Path(__file__).parents[1] / "docs" / "settings.md").read_text()
    assert written == markdown(), "run `make docs`"


WORKER_SGLANG = """
MODEL_PATH TOKENIZER_PATH TOKENIZER_MODE LOAD_FORMAT DTYPE CONTEXT_LENGTH QUANTIZATION
SERVED_MODEL_NAME CHAT_TEMPLATE MEM_FRACTION_STATIC MAX_RUNNING_REQUESTS MAX_TOTAL_TOKENS
CHUNKED_PREFILL_SIZE MAX_PREFILL_TOKENS SCHEDULE_POLICY SCHEDULE_CONSERVATIVENESS
TENSOR_PARALLEL_SIZE STREAM_INTERVAL RANDOM_SEED LOG_LEVEL LOG_LEVEL_HTTP API_KEY
FILE_STORAGE_PATH DATA_PARALLEL_SIZE LOAD_BALANCE_METHOD SKIP_TOKENIZER_INIT TRUST_REMOTE_CODE
LOG_REQUESTS SHOW_TIME_COST DISABLE_RADIX_CACHE DISABLE_CUDA_GRAPH DISABLE_OUTLINES_DISK_CACHE
ENABLE_TORCH_COMPILE ENABLE_P2P_CHECK ENABLE_FLASHINFER_MLA TRITON_ATTENTION_REDUCE_IN_FP32
"""
HATHORA = "HATHORA_REGION MODEL_PATH TP_SIZE MAX_TOTAL_TOKENS LOG_LEVEL PORT"


@pytest.mark.parametrize("name", [*WORKER_SGLANG.split(), *HATHORA.split()])
def test_the_names_that_people_use_today_are_known(name: str) -> None:
    known = {n for n, _, _ in describe(load({}, {}))} | {
        alias
        for field in settings.Settings.model_fields.values()
        for alias in field.json_schema_extra["names"]
    }
    assert name in known


def test_the_demo_is_served_under_its_own_name_and_takes_no_other_model() -> None:
    assert load({}, {"DEMO": "1"}).settings.names == ("SmolLM2-135M-Instruct",)
    with pytest.raises(ConfigError, match="DEMO and MODEL_PATH exclude each other"):
        load({}, {"DEMO": "1", "MODEL_PATH": "m"})


@pytest.mark.parametrize("blank", ["  ", ",", '[""]', '["a", ""]'])
def test_a_blank_key_does_not_open_the_api(blank: str) -> None:
    with pytest.raises(ConfigError, match="API_KEY: a blank key would leave the API open"):
        load({}, {"API_KEY": blank})


def test_zero_is_a_value() -> None:
    assert load({}, {"RANDOM_SEED": "0"}).settings.engine_options()["random_seed"] == 0


def test_engine_args_that_are_not_json_are_one_line_from_wherever_they_come() -> None:
    with pytest.raises(ConfigError, match="ENGINE_ARGS: "):
        load(flags("--engine-arg", "a=1"), {"ENGINE_ARGS": "foo"})
    with pytest.raises(SystemExit):
        flags("--engine-args", "foo", "--engine-arg", "a=1")


def test_secrets_in_engine_args_are_not_shown() -> None:
    loaded = load({}, {"ENGINE_ARGS": '{"ssl_keyfile_password": "hidden", "page_size": 1}'})
    assert origin(loaded, "ENGINE_ARGS")[0] == '{"ssl_keyfile_password": "***", "page_size": 1}'


def test_a_log_file_that_cannot_be_written_is_one_line() -> None:
    from app.logs import setup as logs

    with pytest.raises(ConfigError, match=r"LOG_FILE: cannot write /proc/nowhere/x\.log"):
        logs.file_is_writable(load({}, {"LOG_FILE": "/proc/nowhere/x.log"}).settings)


def test_every_setting_is_read_by_somebody() -> None:
    app = Path(__file__).parents[1] / "app"
    source = "\n".join(path.read_text() for path in app.rglob("*.py"))
    for name, field in Settings.model_fields.items():
        about = field.json_schema_extra
        assert isinstance(about, dict)
        passed_on = about["engine"] is not None
        read = re.search(rf'\.{name}\b|"{name}"', source)
        assert passed_on or read, f"nobody reads {name}"


NETWORK = {
    "HATHORA_HOSTNAME": "x.example", "HATHORA_DEFAULT_PORT": "7777", "HATHORA_REGION": "Seattle",
    "GCP_SERVICE_ACCOUNT_KEY_BASE64": "c2VjcmV0",
}  # fmt: skip


@pytest.mark.parametrize("missing", NETWORK)
def test_networking_needs_all_four_or_none_and_names_what_is_missing(missing: str) -> None:
    given = {name: value for name, value in NETWORK.items() if name != missing}
    with pytest.raises(ConfigError, match=f"needs {missing}, too") as error:
        load({}, given)
    assert "c2VjcmV0" not in str(error.value)
    assert load({}, {**given, "HATHORA_NETWORKING": "false"}).settings.hathora_networking is False
    assert load({}, NETWORK).settings.gcp_key is not None
    assert load({}, {}).settings.gcp_key is None


def test_the_workers_of_a_replaced_server_are_ours() -> None:
    command = "python -m sglang.launch_server --tokenizer-worker-num 4"
    found = load({}, {"SGLANG_SERVER_CMD": command}).settings
    assert found.tokenizer_workers == 4
    assert found.engine_options()["tokenizer_worker_num"] == 4
    assert "tokenizer_worker_num" not in load({}, {}).settings.engine_options()


def test_the_endpoints_port_is_the_servers_unless_that_is_set() -> None:
    assert load({}, NETWORK).settings.port == 7777
    assert load({}, {**NETWORK, "PORT": "8000"}).settings.port == 8000


def test_the_serving_process_gets_everything_but_the_key() -> None:
    config = '{"gcp_service_account_key_base64": "c2VjcmV0", "tp_size": 2}'
    left = settings.without_key({**NETWORK, "DEPLOYMENT_CONFIG_JSON": config, "PATH": "/bin"})
    assert "c2VjcmV0" not in str(left)
    assert load({}, left, supervised=True).settings.tp_size == 2
    assert left["PATH"] == "/bin"


def test_the_key_is_not_taken_from_the_command_line() -> None:
    with pytest.raises(SystemExit):
        flags("--gcp-service-account-key-base64", "c2VjcmV0")


def test_networking_switched_off_starts_no_supervisor() -> None:
    loaded = load({}, {**NETWORK, "HATHORA_NETWORKING": "false"})
    assert not loaded.settings.networked
    assert load({}, NETWORK).settings.networked


def test_a_replaced_servers_command_line_yields_to_everything_else() -> None:
    command = "python -m sglang.launch_server --model-path /a --tp 2 --page-size 16"
    loaded = load({}, {"SGLANG_SERVER_CMD": command, "TP_SIZE": "4"})
    assert (loaded.settings.model_path, loaded.settings.tp_size) == ("/a", 4)
    assert loaded.settings.engine_args == {"page_size": 16}
    with pytest.raises(ConfigError, match=r"only an sglang\.launch_server"):
        load({}, {"SGLANG_SERVER_CMD": "bash -c 'rm -r /'"})


def test_the_deployments_names_may_be_written_in_any_way() -> None:
    config = '{"TP_SIZE": 2, "model-path": "/x", "Max_Queue": 3}'
    loaded = load({}, {"DEPLOYMENT_CONFIG_JSON": config})
    found = loaded.settings
    assert (found.tp_size, found.model_path, found.max_queue) == (2, "/x", 3)
    assert not loaded.warnings
    with pytest.raises(ConfigError, match="tp_size twice"):
        load({}, {"DEPLOYMENT_CONFIG_JSON": '{"TP_SIZE": 2, "tp-size": 4}'})


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("python3 -u -m sglang.launch_server --cuda-graph-bs 1 2 4", {"cuda_graph_bs": [1, 2, 4]}),
        ("sglang serve --page-size=32", {"page_size": 32}),
        ("--json-model-override-args '{\"a\": 1}'", {"json_model_override_args": '{"a": 1}'}),
        ("--enable-dp-attention", {"enable_dp_attention": True}),
    ],
)
def test_options_of_a_replaced_server_are_taken_over(
    command: str, options: dict[str, object]
) -> None:
    assert load({}, {"SGLANG_EXTRA_ARGS": command}).settings.engine_args == options


def test_a_replaced_servers_pool_of_tokens_is_not_the_bound_of_a_request() -> None:
    found = load({}, {"SGLANG_EXTRA_ARGS": "--max-total-tokens 500000"}).settings
    assert (found.kv_pool_tokens, found.max_total_tokens) == (500_000, None)
    with pytest.raises(ConfigError, match="twice"):
        load({}, {"SGLANG_EXTRA_ARGS": "--tp 2 --tp-size 4"})


def test_a_command_line_and_an_address_are_shown_without_their_secrets() -> None:
    given = {
        "SGLANG_SERVER_CMD": "sglang.launch_server --model-path x --api-key sk-1 --hf-token=hf-2",
        "SGLANG_BASE_URL": "https://user:pass-3@host/v1",
    }
    shown = " ".join(value for _, value, _ in describe(load({}, given)))
    assert not [secret for secret in ("sk-1", "hf-2", "pass-3") if secret in shown]
    assert "https://***@host/v1" in shown


def test_sglangs_own_names_of_speculation_stay_as_they_are() -> None:
    given = {"SPECULATIVE_MODEL": "d", "SPECULATIVE_NUM_DRAFT_TOKENS": "16",
             "SPECULATIVE_EAGLE_TOPK": "4"}  # fmt: skip
    found = load({}, given).settings
    assert (found.num_speculative_tokens, found.speculative_eagle_topk) == (16, 4)
    assert found.speculative_num_steps is None
