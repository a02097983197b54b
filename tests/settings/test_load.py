"""Where a value comes from, what a setting may be called, and the error for a wrong value."""

from __future__ import annotations

import json

import pytest

from app.errors import ConfigError
from app.settings.load import load, take_keys, with_keys, without_key, without_secrets
from tests.settings.sources import flags, origin

NETWORK = {
    "HATHORA_HOSTNAME": "x.example",
    "HATHORA_DEFAULT_PORT": "7777",
    "HATHORA_REGION": "Seattle",
    "GCP_SERVICE_ACCOUNT_KEY_BASE64": "c2VjcmV0",
}


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


def test_two_names_of_a_setting_must_have_the_same_value() -> None:
    assert load({}, {"TP_SIZE": "2", "TENSOR_PARALLEL_SIZE": "2"}).settings.tp_size == 2
    with pytest.raises(ConfigError, match="TP_SIZE and TENSOR_PARALLEL_SIZE are the same setting"):
        load({}, {"TP_SIZE": "2", "TENSOR_PARALLEL_SIZE": "4"})
    with pytest.raises(ConfigError, match="--tp-size and --tensor-parallel-size"):
        load(flags("--tp-size", "1", "--tensor-parallel-size", "2"), {})


@pytest.mark.parametrize(
    ("environ", "error_text"),
    [
        ({"PORT": "http"}, "PORT: must be an integer, not 'http'"),
        ({"PORT": "70000"}, "PORT: must be at most 65,535, not '70000'"),
        ({"MAX_CONCURRENCY": "0"}, "MAX_CONCURRENCY: must be at least 1, not '0'"),
        (
            {"LOG_LEVEL": "loud"},
            "LOG_LEVEL: must be 'debug', 'info', 'warning' or 'error', not 'loud'",
        ),
        ({"LOG_FORMAT": "xml"}, "LOG_FORMAT: must be"),
        ({"TRUST_REMOTE_CODE": "maybe"}, "TRUST_REMOTE_CODE: must be true or false, not 'maybe'"),
        ({"DEPLOYMENT_CONFIG_JSON": "["}, "DEPLOYMENT_CONFIG_JSON is not JSON"),
        ({"DEPLOYMENT_CONFIG_JSON": "[]"}, "DEPLOYMENT_CONFIG_JSON must be a JSON object"),
        ({"ENGINE_ARGS": "{"}, "ENGINE_ARGS: "),
        ({"SKIP_TOKENIZER_INIT": "true"}, "SKIP_TOKENIZER_INIT=true cannot be honoured"),
        ({"QUANTIZATION": "squeezellm"}, "QUANTIZATION=squeezellm is gone"),
    ],
)
def test_a_wrong_value_is_one_line_that_names_the_setting(
    environ: dict[str, str], error_text: str
) -> None:
    with pytest.raises(ConfigError) as error:
        load({}, environ)
    assert error_text in str(error.value)
    assert "\n" not in str(error.value)


def test_empty_means_not_set_but_an_empty_log_file_means_none() -> None:
    loaded = load({}, {"PORT": "", "LOG_FILE": ""})
    assert loaded.settings.port == 8000
    assert loaded.settings.log_file == ""


def test_lists_are_separated_by_commas_or_json() -> None:
    assert load({}, {"CORS_ORIGINS": "a, b,"}).settings.cors_origins == ("a", "b")
    assert load({}, {"CORS_ORIGINS": '["a", "b"]'}).settings.cors_origins == ("a", "b")


def test_engine_args_are_merged_over_the_layers() -> None:
    environ = {"ENGINE_ARGS": '{"page_size": 16, "watchdog_timeout": 9}'}
    loaded = load(flags("--engine-arg", "page-size=32", "--engine-arg", "dtype=half"), environ)
    assert loaded.settings.engine_args == {
        "page_size": 32, "watchdog_timeout": 9, "dtype": "half",
    }  # fmt: skip


def test_engine_args_that_are_not_json_are_one_line_from_any_source() -> None:
    with pytest.raises(ConfigError, match="ENGINE_ARGS: "):
        load(flags("--engine-arg", "a=1"), {"ENGINE_ARGS": "foo"})
    with pytest.raises(ConfigError, match="--engine-args"):
        flags("--engine-args", "foo", "--engine-arg", "a=1")


def test_the_deployments_names_may_be_in_any_case_with_dashes_or_underscores() -> None:
    config = '{"TP_SIZE": 2, "model-path": "/x", "Max_Queue": 3}'
    loaded = load({}, {"DEPLOYMENT_CONFIG_JSON": config})
    settings = loaded.settings
    assert (settings.tp_size, settings.model_path, settings.max_queue) == (2, "/x", 3)
    assert not loaded.warnings
    with pytest.raises(ConfigError, match="tp_size twice"):
        load({}, {"DEPLOYMENT_CONFIG_JSON": '{"TP_SIZE": 2, "tp-size": 4}'})


def test_the_demo_is_served_under_its_own_name_and_takes_no_other_model() -> None:
    assert load({}, {"DEMO": "1"}).settings.names == ("SmolLM2-135M-Instruct",)
    with pytest.raises(ConfigError, match="DEMO and MODEL_PATH exclude each other"):
        load({}, {"DEMO": "1", "MODEL_PATH": "m"})


def test_the_endpoints_port_is_the_default_of_the_servers_port() -> None:
    assert load({}, NETWORK).settings.port == 7777
    assert load({}, {**NETWORK, "PORT": "8000"}).settings.port == 8000


def test_the_serving_process_gets_everything_but_the_key() -> None:
    config = '{"gcp_service_account_key_base64": "c2VjcmV0", "tp_size": 2}'
    environment = without_key({**NETWORK, "DEPLOYMENT_CONFIG_JSON": config, "PATH": "/bin"})
    assert "c2VjcmV0" not in str(environment)
    assert load({}, environment, supervised=True).settings.tp_size == 2
    assert environment["PATH"] == "/bin"


KEYS = {
    "API_KEY": "sk-SECRET",
    "ADMIN_API_KEY": "sk-SECRET",
    "SGLANG_API_KEY": "sk-SECRET",
    "GCP_SERVICE_ACCOUNT_KEY_BASE64": "sk-SECRET",
    "SGLANG_EXTRA_ARGS": "--api-key sk-SECRET",
    "ENGINE_ARGS": '{"ssl_keyfile_password": "SECRET"}',
    "STORE_URL": "postgresql://u:SECRET@h/db",
    "OTEL_EXPORTER_OTLP_ENDPOINT": "http://u:SECRET@collector:4318",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "https://collector/v1/traces?token=SECRET",
    "SGLANG_BASE_URL": "http://u:SECRET@h/v1",
    "DEPLOYMENT_CONFIG_JSON": json.dumps(
        {
            "api-key": "sk-SECRET",
            "engine_args": {"ssl_keyfile_password": "SECRET"},
            "store_url": "postgresql://u:SECRET@h/db",
            "otel-exporter-otlp-endpoint": "http://u:SECRET@collector:4318",
            "tp_size": 2,
        }
    ),
}


@pytest.mark.parametrize("name", KEYS)
def test_what_the_engine_inherits_has_no_key_and_a_serving_process_gets_it_back(name: str) -> None:
    environ = {name: KEYS[name], "HF_TOKEN": "hf_needed", "PATH": "/bin"}
    taken = take_keys(environ)
    assert "SECRET" not in str(environ)
    assert without_key(with_keys(taken, environ)).get(name) == (
        None if name.startswith("GCP") else KEYS[name]
    )
    assert environ.items() >= {"HF_TOKEN": "hf_needed", "PATH": "/bin"}.items()
    assert with_keys(taken, environ) == {
        name: KEYS[name],
        "HF_TOKEN": "hf_needed",
        "PATH": "/bin",
    }


def test_settings_beside_a_key_stay_where_they_were() -> None:
    environ = {"DEPLOYMENT_CONFIG_JSON": KEYS["DEPLOYMENT_CONFIG_JSON"], "PORT": "1"}
    take_keys(environ)
    settings = load({}, environ).settings
    assert (settings.tp_size, settings.port, settings.api_key) == (2, 1, ())


def test_a_process_that_needs_no_secret_inherits_none() -> None:
    environ = {"RUNPOD_AI_API_KEY": "k", "HF_TOKEN": "k", "AWS_SECRET_ACCESS_KEY": "k", "PATH": "/"}
    environ |= {"HTTPS_PROXY": "http://u:k@proxy", "DATABASE_URL": "mysql://u:k@h/d"}
    assert without_secrets(environ) == {"PATH": "/"}
    assert "SECRET" not in str(without_secrets(KEYS))


def test_addresses_without_credentials_and_those_of_others_stay_for_the_engine() -> None:
    environ = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318",
        "HTTPS_PROXY": "http://u:k@proxy",
        "DEPLOYMENT_CONFIG_JSON": '{"tp_size":2}',
        "HF_OVERRIDES": '{"num_key_value_heads": 8}',
    }
    assert take_keys(environ) == {}
    assert len(environ) == 4


@pytest.mark.parametrize("flag", ["--api-key", "--admin-api-key", "--hf-token"])
def test_a_key_on_the_command_line_is_warned_of(flag: str) -> None:
    (warning,) = load(flags(flag, "sk-SECRET"), {}).warnings
    assert warning.startswith(f"{flag}: every user of this machine can read it")
    assert "SECRET" not in warning
    assert not load({}, {"API_KEY": "sk-SECRET"}).warnings


def test_a_key_within_another_value_of_the_command_line_is_warned_of() -> None:
    (warning,) = load(flags("--store-url", "postgresql://u:SECRET@h/db"), {}).warnings
    assert warning.startswith("--store-url: every user of this machine can read it")
    address = flags("--otel-exporter-otlp-endpoint", "http://u:SECRET@h")
    (warning,) = load(address, {}).warnings
    assert warning.startswith("--otel-exporter-otlp-endpoint: every user of this machine can read")
    password = flags("--engine-arg", "ssl_keyfile_password=SECRET")
    (warning,) = load(password, {"SSL_KEYFILE": __file__, "SSL_CERTFILE": __file__}).warnings
    assert warning.startswith("--engine-arg ssl_keyfile_password: every user")
    assert not load(flags("--store-url", "memory"), {}).warnings


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--hf-overrides", '{"num_key_value_heads": 8}'),
        ("--warmup-prompt", "*** hello ***"),
        ("--cors-origins", "https://a/?x=1"),
        ("--log-file", "/x/***"),
    ],
)
def test_what_is_no_key_is_not_warned_of(flag: str, value: str) -> None:
    assert not [line for line in load(flags(flag, value), {}).warnings if "can read it" in line]
