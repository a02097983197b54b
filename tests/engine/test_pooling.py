"""A model folder's pooling is honoured or refused. The folders here are made of small files."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from app.engine.sglang import pooling
from app.errors import ConfigError

BERT = {"architectures": ["BertModel"], "hidden_size": 384, "max_position_embeddings": 512}
QWEN = {"architectures": ["Qwen3ForCausalLM"], "hidden_size": 1024}
XLMR = BERT | {"architectures": ["XLMRobertaModel"], "max_position_embeddings": 514}
STEPS = ("Transformer", "Pooling", "Normalize")


def folder(
    path: Path, config: Any, asked: Any = None, *, steps: tuple[str, ...] | None = STEPS
) -> Path:
    files = {"config.json": config}
    if asked is not None:
        files["1_Pooling/config.json"] = asked
        if steps is not None:
            files["modules.json"] = [
                {
                    "type": f"sentence_transformers.models.{kind}",
                    "path": f"{no}_{kind}" if no else "",
                }
                for no, kind in enumerate(steps)
            ]
    for name, content in files.items():
        (path / name).parent.mkdir(exist_ok=True)
        (path / name).write_text(json.dumps(content))
    return path


def flags(*modes: str) -> dict[str, bool]:
    names = ("cls_token", "mean_tokens", "max_tokens", "weightedmean_tokens", "lasttoken")
    return {f"pooling_mode_{name}": name in modes for name in names}


@pytest.mark.parametrize(
    ("asked", "mode"),
    [
        (flags("mean_tokens"), "mean"),
        (flags("cls_token"), "cls"),
        (flags("lasttoken"), "last"),
        ({"pooling_mode": "mean"}, "mean"),
        ({"pooling_mode": ["cls"]}, "cls"),
        ({"pooling_mode": "lasttoken"}, "last"),
        (flags(), "mean"),
        (None, "mean"),
    ],
)
@pytest.mark.parametrize("config", [BERT, XLMR])
@pytest.mark.parametrize("steps", [STEPS, STEPS[:2], None])
def test_an_encoder_pools_as_it_asks(tmp_path, config, asked, mode, steps):
    model = folder(tmp_path, config, asked, steps=steps)
    assert pooling.check(model).mode == mode
    assert pooling.is_embedding_model(model)


@pytest.mark.parametrize("asked", [None, flags("lasttoken")])
def test_a_decoder_pools_its_last_token(tmp_path, asked):
    assert pooling.check(folder(tmp_path, QWEN, asked)).mode == "last"


@pytest.mark.parametrize(
    ("config", "asked", "steps", "reason"),
    [
        (BERT, flags("max_tokens"), STEPS, "asks for max pooling"),
        (BERT, flags("weightedmean_tokens"), STEPS, "weightedmean"),
        (BERT, {"pooling_mode_mean_sqrt_len_tokens": True}, STEPS, "mean_sqrt_len_tokens"),
        (BERT, flags("cls_token", "mean_tokens"), STEPS, "cls + mean pooling"),
        (BERT, {"pooling_mode": ["mean", "max"]}, STEPS, "mean + max pooling"),
        (BERT, flags("mean_tokens"), ("Transformer", "Pooling", "Dense"), "Pooling, Dense"),
        (BERT, flags("mean_tokens"), ("Transformer", "Pooling", "Dense", "Normalize"), "Dense"),
        (BERT, flags("mean_tokens"), ("Transformer",), "asks for Transformer;"),
        (QWEN, flags("mean_tokens"), STEPS, "asks for mean pooling, the engine pools last"),
        (BERT | {"architectures": ["MPNetModel"]}, flags("mean_tokens"), STEPS, "MPNetModel"),
        (BERT | {"architectures": None}, None, STEPS, "architecture null"),
        (BERT, [], STEPS, "should hold a JSON object"),
    ],
)
def test_other_pooling_is_refused_in_one_line(tmp_path, config, asked, steps, reason):
    with pytest.raises(ConfigError) as raised:
        pooling.check(folder(tmp_path, config, asked, steps=steps))
    assert reason in str(raised.value)
    assert str(raised.value).startswith("MODEL_PATH: ")
    assert "\n" not in str(raised.value)


def test_an_empty_folder_is_no_embedding_model(tmp_path):
    assert not pooling.is_embedding_model(tmp_path)
    assert not pooling.is_embedding_model(tmp_path / "not there")
    with pytest.raises(ConfigError, match=r"has no config\.json"):
        pooling.check(tmp_path)


def test_pooling_that_is_asked_for_but_not_described_is_refused(tmp_path):
    (folder(tmp_path, BERT, flags("cls_token")) / "1_Pooling" / "config.json").unlink()
    with pytest.raises(ConfigError, match="asks for pooling, but there is no"):
        pooling.check(tmp_path)


@pytest.mark.parametrize("name", ["config.json", "modules.json", "1_Pooling/config.json"])
def test_a_broken_file_is_named(tmp_path, name):
    (folder(tmp_path, BERT, flags("cls_token")) / name).write_text('{"a":')
    with pytest.raises(ConfigError, match=name):
        pooling.check(tmp_path)


def test_a_language_model_is_an_embedding_model_only_with_a_pooling_step(tmp_path):
    assert not pooling.is_embedding_model(folder(tmp_path, QWEN))
    assert pooling.is_embedding_model(folder(tmp_path, QWEN, flags("lasttoken")))


def test_a_model_whose_pooling_is_refused_is_an_embedding_model_nonetheless(tmp_path):
    steps = ("Transformer", "Pooling", "Dense")
    assert pooling.is_embedding_model(folder(tmp_path, QWEN, flags("max_tokens"), steps=steps))


@pytest.mark.parametrize(
    ("config", "allowed", "refused"),
    [
        ({}, [384], [0, -1, 64, 385]),
        ({"is_matryoshka": True}, [1, 64, 384], [0, -1, 385]),
        ({"matryoshka_dimensions": [64, 128]}, [64, 128, 384], [0, 63, 385]),
        ({"is_matryoshka": True, "matryoshka_dimensions": [64]}, [64, 384], [65]),
    ],
)
def test_only_a_matryoshka_model_has_shorter_vectors(tmp_path, config, allowed, refused):
    pools = pooling.check(folder(tmp_path, BERT | config))
    assert pools.size == 384
    assert [n for n in (*allowed, *refused) if pools.allows(n)] == allowed


@pytest.mark.parametrize(
    ("config", "max_seq_length", "tokens"),
    [
        (BERT, None, None),
        (BERT, 256, 256),
        (XLMR | {"pad_token_id": 1}, None, 512),
        (XLMR | {"pad_token_id": 1}, 128, 128),
        (BERT, "many", None),
    ],
)
def test_the_longest_input_is_what_the_model_was_made_for(tmp_path, config, max_seq_length, tokens):
    model = folder(tmp_path, config, flags("mean_tokens"))
    if max_seq_length is not None:
        text = json.dumps({"max_seq_length": max_seq_length})
        (model / "sentence_bert_config.json").write_text(text)
    assert pooling.check(model).max_tokens == tokens


def test_reading_a_folder_loads_no_model_library():
    code = "import app.engine.sglang.pooling, sys; print({'torch', 'sglang'} & {*sys.modules})"
    assert run(code) == "set()"


@pytest.mark.full
def test_sglang_uses_our_encoders_and_pools_the_others_as_expected():
    # If ours cannot be imported, SGLang uses its own with a warning at most.
    code = """
import inspect, json
from app.engine.sglang import importing, pooling
importing.use_cpu()
from sglang.srt.models.registry import ModelRegistry
sources = {}
for name in ("BertModel", "Contriever", "XLMRobertaModel"):
    sources[name] = ModelRegistry.resolve_model_cls([name])[0].__module__
for name, mode in pooling._FIXED_POOLING.items():
    classes = ModelRegistry.resolve_model_cls([name])[0].__mro__
    source = "".join(inspect.getsource(c) for c in classes if c.__module__.startswith("sglang"))
    pooler = f"Pooler(pooling_type=PoolingType.{mode.upper()}, normalize=True)"
    sources[name] = source.count("Pooler(pool") == source.count(pooler) == 1
print(json.dumps(sources))
"""
    sources = json.loads(
        run(code, SGLANG_EXTERNAL_MODEL_PACKAGE="app.engine.sglang.models").splitlines()[-1]
    )
    ours = dict.fromkeys(pooling._ANY_POOLING, "app.engine.sglang.models.bert")
    assert sources == ours | dict.fromkeys(pooling._FIXED_POOLING, True)


def run(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        capture_output=True,
        text=True,
        cwd=Path(pooling.__file__).parents[3],
        env=os.environ | environment,
    )
    return done.stdout.strip()
