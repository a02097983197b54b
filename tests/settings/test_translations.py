"""Values and command lines of other servers, in the settings of this one."""

from __future__ import annotations

import pytest

from app.errors import ConfigError
from app.settings.load import load


@pytest.mark.parametrize(
    ("environ", "field", "value"),
    [
        ({"LOAD_BALANCE_METHOD": "shortest_queue"}, "load_balance_method", "total_requests"),
        ({"QUANTIZATION": "marlin"}, "quantization", "gptq_marlin"),
        ({"ENABLE_FLASHINFER_MLA": "true"}, "attention_backend", "flashinfer"),
    ],
)
def test_an_obsolete_value_is_translated_with_a_warning(
    environ: dict[str, str], field: str, value: str
) -> None:
    loaded = load({}, environ)
    assert getattr(loaded.settings, field) == value
    assert "is obsolete: taken as" in loaded.warnings[0]


def test_sglangs_own_names_of_speculation_stay_as_they_are() -> None:
    environ = {
        "SPECULATIVE_MODEL": "d",
        "SPECULATIVE_NUM_DRAFT_TOKENS": "16",
        "SPECULATIVE_EAGLE_TOPK": "4",
    }
    settings = load({}, environ).settings
    assert (settings.num_speculative_tokens, settings.speculative_eagle_topk) == (16, 4)
    assert settings.speculative_num_steps is None


def test_the_tokenizer_workers_of_a_replaced_server_are_taken_over() -> None:
    command = "python -m sglang.launch_server --tokenizer-worker-num 4"
    settings = load({}, {"SGLANG_SERVER_CMD": command}).settings
    assert settings.tokenizer_workers == 4
    assert settings.engine_options()["tokenizer_worker_num"] == 4
    assert "tokenizer_worker_num" not in load({}, {}).settings.engine_options()


def test_a_replaced_servers_command_line_yields_to_everything_else() -> None:
    command = "python -m sglang.launch_server --model-path /a --tp 2 --page-size 16"
    loaded = load({}, {"SGLANG_SERVER_CMD": command, "TP_SIZE": "4"})
    assert (loaded.settings.model_path, loaded.settings.tp_size) == ("/a", 4)
    assert loaded.settings.engine_args == {"page_size": 16}
    with pytest.raises(ConfigError, match=r"only an sglang\.launch_server"):
        load({}, {"SGLANG_SERVER_CMD": "bash -c 'rm -r /'"})


@pytest.mark.parametrize(
    ("command", "options"),
    [
        (
            "python3 -u -m sglang.launch_server --cuda-graph-bs-decode 1 2 4",
            {"cuda_graph_bs_decode": [1, 2, 4]},
        ),
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
    settings = load({}, {"SGLANG_EXTRA_ARGS": "--max-total-tokens 500000"}).settings
    assert (settings.kv_pool_tokens, settings.max_total_tokens) == (500_000, None)
    with pytest.raises(ConfigError, match="twice"):
        load({}, {"SGLANG_EXTRA_ARGS": "--tp 2 --tp-size 4"})
