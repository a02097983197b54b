"""The loads as data, the tiny model's prompts, and the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import __main__ as bench
from bench import models
from bench.load import LOADS, chosen


@pytest.mark.parametrize("model", LOADS)
def test_every_load_has_a_unique_name_and_keeps_its_streams_busy(model: str) -> None:
    names = [load.name for load in LOADS[model]]
    assert len(set(names)) == len(names)
    assert all(load.requests >= load.streams for load in LOADS[model])


def test_chosen_loads_keep_the_order_of_the_table() -> None:
    assert [load.name for load in chosen("tiny", ["tools", "64"])] == ["64", "tools"]
    assert chosen("demo") == list(LOADS["demo"])
    with pytest.raises(ValueError, match="no load 65 for tiny; there are 1, 16"):
        chosen("tiny", ["65", "64"])


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "tiny"
    models.make(folder)
    return folder


@pytest.mark.full
def test_a_prompt_has_exactly_the_requested_number_of_tokens(tiny: Path) -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(tiny / "tokenizer.json"))
    texts = models.prompts(tiny, 20, 32, seed=1)
    assert {len(tokenizer.encode(text).ids) for text in texts} == {32}
    assert len(set(texts)) == 20
    assert texts == models.prompts(tiny, 20, 32, seed=1) != models.prompts(tiny, 20, 32, seed=2)


@pytest.mark.full
def test_the_tiny_model_cannot_choose_a_token_without_text(tiny: Path) -> None:
    from safetensors import safe_open
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(tiny / "tokenizer.json"))
    with safe_open(tiny / "model.safetensors", framework="np") as weights:
        head = weights.get_tensor("lm_head.weight")
    zero = {id for id, row in enumerate(head) if not row.any()}
    unreadable = {id for id in range(len(head)) if not tokenizer.decode([id]).isprintable()}
    assert models.END_ID in zero
    assert unreadable <= zero
    assert len(zero) < len(head) / 4


def test_a_setting_without_a_value_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        bench.main(["compare", "--ours", "TOKENIZER_WORKERS"])
    assert "not NAME=VALUE" in capsys.readouterr().err


def test_an_unknown_load_is_reported_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench.main(["compare", "--loads", "5", "--output", str(tmp_path / "raw")]) == 1
    assert capsys.readouterr().err.startswith("bench: no load 5 for tiny")
