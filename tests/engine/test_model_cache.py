"""Models that RunPod has cached on the machine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import structlog

from app.engine import model_cache
from app.engine.sglang import model_files
from tests.support.serving import settings

COMMIT = "317b7eb96312eda0c431d1dab1af958a308cb35e"
NAME = "Qwen/Qwen2.5-0.5B-Instruct"


def cached(
    root: Path, name: str = NAME, *, commit: str = COMMIT, main: bool = True, weights: bool = True
) -> Path:
    """As the hub's client leaves it: files that are links into `blobs`."""
    folder = root / ("models--" + name.replace("/", "--"))
    snapshot = folder / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (folder / "blobs").mkdir(exist_ok=True)
    for file in ("config.json", "tokenizer.json", *(["model.safetensors"] if weights else [])):
        blob = folder / "blobs" / f"{commit[:8]}-{file}"
        blob.write_text("{}")
        (snapshot / file).symlink_to(blob)
    if main:
        (folder / "refs").mkdir(exist_ok=True)
        (folder / "refs" / "main").write_text(commit)
    return snapshot


def test_the_branch_main_is_taken(tmp_path: Path) -> None:
    cached(tmp_path, commit="a" * 40, main=False)
    snapshot = cached(tmp_path)
    for revision in (None, "main", COMMIT):
        assert model_cache.find(str(tmp_path), NAME, revision) == snapshot
    assert model_cache.find(str(tmp_path), NAME, "a" * 40) is not None
    assert model_cache.find(str(tmp_path), NAME, "b" * 40) is None
    assert model_cache.find(str(tmp_path), NAME, "other") is None


def test_without_a_branch_the_only_snapshot_is_taken_and_of_two_none(tmp_path: Path) -> None:
    snapshot = cached(tmp_path, main=False)
    assert model_cache.find(str(tmp_path), NAME) == snapshot
    assert model_cache.find(str(tmp_path), NAME, "v1") is None
    cached(tmp_path, commit="a" * 40, main=False)
    assert model_cache.find(str(tmp_path), NAME) is None


def test_a_folder_in_lower_case_is_found(tmp_path: Path) -> None:
    snapshot = cached(tmp_path, NAME.lower())
    assert model_cache.find(str(tmp_path), NAME) == snapshot


@pytest.mark.parametrize(
    "name", ["../secret", "/etc", "a/b/c", "", "a", "models", "org/..", "org/a\nb", NAME + "-x"]
)
def test_another_name_finds_nothing(tmp_path: Path, name: str) -> None:
    cached(tmp_path)
    assert model_cache.find(str(tmp_path), name) is None


@pytest.mark.parametrize("revision", ["../../../x", "../main", "/etc/passwd"])
def test_a_revision_leads_nowhere_else(tmp_path: Path, revision: str) -> None:
    cached(tmp_path)
    assert model_cache.find(str(tmp_path), NAME, revision) is None


def test_a_model_that_is_not_complete_is_logged_and_left_to_the_hub(tmp_path: Path) -> None:
    snapshot = cached(tmp_path, weights=False)
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (snapshot / "model.safetensors.index.json").write_text(json.dumps(index))
    (snapshot / "model-1.safetensors").write_text("x")
    (snapshot / "model-2.safetensors").symlink_to(tmp_path / "gone")
    with structlog.testing.capture_logs() as logs:
        assert model_cache.find(str(tmp_path), NAME) is None
    assert logs[0]["missing"] == "model-2.safetensors"
    (tmp_path / "gone").write_text("x")
    assert model_cache.find(str(tmp_path), NAME) == snapshot


def test_a_model_without_weights_or_config_is_not_complete(tmp_path: Path) -> None:
    snapshot = cached(tmp_path, weights=False)
    assert model_cache.find(str(tmp_path), NAME) is None
    assert model_cache.find_tokenizer(str(tmp_path), NAME) == snapshot
    (snapshot / "config.json").unlink()
    assert model_cache.find(str(tmp_path), NAME) is None


def test_the_model_of_the_settings_is_taken_from_the_cache(tmp_path: Path) -> None:
    snapshot = cached(tmp_path)
    chosen = settings(MODEL_NAME=NAME, MODEL_CACHE=str(tmp_path))
    path = model_files.model_path(chosen)
    assert path == str(snapshot)
    assert model_files.needs_no_hub(chosen, path)
    assert chosen.names == (NAME,), "it is served by the name that it has on the hub"
    assert model_files.model_path(settings(MODEL_NAME=NAME, MODEL_CACHE="")) == NAME


def test_the_hub_is_needed_for_what_is_not_in_the_cache(tmp_path: Path) -> None:
    path = str(cached(tmp_path))
    base = {"MODEL_NAME": NAME, "MODEL_CACHE": str(tmp_path)}
    for variables in (
        {"TOKENIZER": "org/tokenizer"},
        {"SPECULATIVE_MODEL": "org/draft"},
        {"TRUST_REMOTE_CODE": "true"},
    ):
        assert not model_files.needs_no_hub(settings(**base, **variables), path)
    cached(tmp_path, "org/tokenizer", weights=False)
    cached(tmp_path, "org/draft")
    both = settings(**base, TOKENIZER="org/tokenizer", SPECULATIVE_MODEL="org/draft")
    assert model_files.needs_no_hub(both, path)
    assert not model_files.needs_no_hub(settings(**base), "/models/other")


def test_a_tokenizers_revision_is_looked_up_in_the_cache(tmp_path: Path) -> None:
    snapshot = cached(tmp_path, commit="a" * 40, main=False)
    cached(tmp_path)
    chosen = settings(MODEL_NAME=NAME, MODEL_CACHE=str(tmp_path), TOKENIZER_REVISION="a" * 40)
    found = model_files.tokenizer_at("a" * 40, chosen, {"model_path": "x"})
    assert found == str(snapshot)


def test_a_model_is_called_by_its_name_where_the_hubs_own_cache_has_it(tmp_path: Path) -> None:
    folder = str(cached(tmp_path))
    assert model_cache.called(NAME, folder) == NAME
    for name, path in ((folder, folder), (NAME, "/models/other"), (NAME.upper(), folder)):
        assert model_cache.called(name, path) == path


def test_parts_without_their_index_are_not_a_model(tmp_path: Path) -> None:
    snapshot = cached(tmp_path, weights=False)
    (snapshot / "model-00001-of-00017.safetensors").write_bytes(b"w")
    assert model_cache.has_weights(str(tmp_path), NAME) is None
    (snapshot / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-1"}}')
    assert model_cache.has_weights(str(tmp_path), NAME) is None
    (snapshot / "model-1").write_bytes(b"w")
    assert model_cache.has_weights(str(tmp_path), NAME) == snapshot
