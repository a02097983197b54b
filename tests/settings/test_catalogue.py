"""The table of settings: known names, and what the engine is passed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from app.errors import ConfigError
from app.settings.catalogue import DECLARATIONS
from app.settings.load import load

APP = Path(__file__).parents[2] / "app"


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
def test_the_names_of_the_replaced_servers_are_known(name: str) -> None:
    assert name in {known for declared in DECLARATIONS.values() for known in declared.names}


def test_every_setting_is_passed_to_the_engine_or_read_in_the_program() -> None:
    source = "\n".join(path.read_text() for path in APP.rglob("*.py"))
    for field, declared in DECLARATIONS.items():
        read = re.search(rf'\.{field}\b|"{field}"', source)
        assert declared.engine_option is not None or read, f"no code reads {field}"


def test_engine_options_are_only_those_that_are_set() -> None:
    environ = {"MODEL_PATH": "m", "KV_POOL_TOKENS": "9", "MAX_TOTAL_TOKENS": "5", "DTYPE": "auto"}
    options = load({}, environ).settings.engine_options()
    assert options == {
        "model_path": "m", "max_total_tokens": 9, "dtype": "auto", "tool_call_parser": "auto",
        "reasoning_parser": "auto",
    }  # fmt: skip


OUTSIDE = [
    (declared.names[0], value + (0 if strict else step))
    for declared in DECLARATIONS.values()
    for kind, value in declared.limits
    for strict, step in [(kind in ("gt", "lt"), -1 if kind in ("ge", "gt") else 1)]
]


@pytest.mark.parametrize(("name", "value"), OUTSIDE)
def test_a_value_outside_a_settings_limits_is_refused_by_name(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"^{name}: "):
        load({}, {"MODEL_PATH": "m", name: str(value)})


def test_zero_is_a_value() -> None:
    assert load({}, {"RANDOM_SEED": "0"}).settings.engine_options()["random_seed"] == 0


def test_requests_are_logged_with_content_only_at_debug() -> None:
    quiet = load({}, {"LOG_REQUESTS": "true"}).settings.engine_options()
    loud = load({}, {"LOG_REQUESTS": "true", "LOG_LEVEL": "DEBUG"}).settings.engine_options()
    assert (quiet["log_requests_level"], loud["log_requests_level"]) == (1, 3)
