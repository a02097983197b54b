"""A model baked into the image, from a small hub on loopback, and then really served from there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy.dockerfile import ROOT, Container, container, stages
from tests.support.hub import hub

INDEX = json.dumps({"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}})
FILES = {
    "config.json": "{}",
    "tokenizer.json": "{}",
    "merges.txt": "a b",
    "chat_template.jinja": "{{ messages }}",
    "modeling_own.py": "x = 1",
    "model.safetensors.index.json": INDEX,
    "model-1.safetensors": "one",
    "model-2.safetensors": "two",
    "pytorch_model.bin": "again",
    "original/consolidated.00.pth": "again",
    "model.gguf": "again",
    "onnx/model.onnx": "again",
}


def bake(folder: Path, url: str, **env: str) -> subprocess.CompletedProcess[str]:
    """As the Dockerfile's RUN does, the build arguments being in its environment."""
    return subprocess.run(
        [sys.executable, str(ROOT / "deploy/docker/bake.py"), str(folder)], text=True,
        env={**os.environ, "HF_ENDPOINT": url, "HF_HOME": str(folder.parent / "hf"), **env},
        capture_output=True, timeout=120,
    )  # fmt: skip


@pytest.fixture(scope="module")
def image() -> Iterator[Container]:
    with container() as made, hub(FILES) as url:
        done = bake(made.folder / "models", url, MODEL_NAME="org/model", QUANTIZATION="fp8",
                    TOKENIZER_NAME="org/tokenizer")  # fmt: skip
        assert done.returncode == 0, done.stderr
        yield made


def test_the_dockerfile_passes_what_the_baker_reads() -> None:
    arguments = {text.partition("=")[0] for text in stages()["model"].all("ARG")}
    source = (ROOT / "deploy/docker/bake.py").read_text()
    assert all(f'"{name}"' in source for name in arguments)
    assert "type=secret,id=HF_TOKEN,required=false" in stages()["model"].last("RUN")


@pytest.mark.full
def test_everything_but_duplicate_weights_is_baked(image: Container) -> None:
    model = image.folder / "models/org--model"
    baked_files = {
        path.relative_to(model).as_posix() for path in model.rglob("*") if path.is_file()
    }
    left_out = {"pytorch_model.bin", "original/consolidated.00.pth", "model.gguf",
                "onnx/model.onnx"}  # fmt: skip
    assert baked_files == FILES.keys() - left_out
    tokenizer = image.folder / "models/tokenizer/org--tokenizer"
    assert (tokenizer / "tokenizer.json").exists()
    assert not list(tokenizer.glob("*.safetensors"))


@pytest.mark.full
def test_the_baked_model_is_served_offline_under_its_name(image: Container) -> None:
    seen = image.entrypoint()
    models = image.folder / "models"
    assert seen["MODEL_PATH"] == str(models / "org--model")
    assert seen["SERVED_MODEL_NAME"] == "org/model"
    assert seen["TOKENIZER_PATH"] == str(models / "tokenizer/org--tokenizer")
    assert seen["QUANTIZATION"] == "fp8"
    assert seen["HF_HUB_OFFLINE"] == seen["TRANSFORMERS_OFFLINE"] == "1"


@pytest.mark.full
@pytest.mark.parametrize("revision", [{}, {"MODEL_REVISION": "main"}])
def test_naming_the_baked_model_serves_the_baked_model(
    image: Container, revision: dict[str, str]
) -> None:
    seen = image.entrypoint(MODEL_NAME="org/model", TOKENIZER="org/tokenizer", **revision)
    assert seen["MODEL_PATH"].endswith("/models/org--model")
    assert seen["HF_HUB_OFFLINE"] == "1"
    assert not seen.keys() & {"MODEL_NAME", "TOKENIZER", "MODEL_REVISION"}


@pytest.mark.full
@pytest.mark.parametrize(
    ("args", "env"),
    [
        ((), {"MODEL_ID": "org/other"}),
        ((), {"MODEL_NAME": "org/model", "MODEL_REVISION": "v2"}),
        ((), {"DEPLOYMENT_CONFIG_JSON": '{"model_id": "org/other"}'}),
        (("--model-path", "org/other"), {}),
        (("serve", "--demo"), {}),
        ((), {"DEMO": "1"}),
    ],
)
def test_another_model_is_left_alone_and_online(
    image: Container, args: tuple[str, ...], env: dict[str, str]
) -> None:
    seen = image.entrypoint(*args, **env)
    assert not seen.keys() & {"MODEL_PATH", "SERVED_MODEL_NAME", "HF_HUB_OFFLINE"}
    assert all(seen[name] == value for name, value in env.items())


@pytest.mark.full
def test_the_users_settings_stand_beside_the_baked_model(image: Container) -> None:
    seen = image.entrypoint(SERVED_MODEL_NAME="mine", QUANTIZATION="awq", HF_HUB_OFFLINE="0")
    assert (seen["SERVED_MODEL_NAME"], seen["QUANTIZATION"]) == ("mine", "awq")
    assert (seen["HF_HUB_OFFLINE"], seen["TRANSFORMERS_OFFLINE"]) == ("0", "1")


@pytest.mark.full
def test_a_draft_model_from_the_hub_keeps_it_online(image: Container) -> None:
    seen = image.entrypoint(SPECULATIVE_DRAFT_MODEL_PATH="org/draft")
    assert seen["MODEL_PATH"].endswith("/models/org--model")
    assert "HF_HUB_OFFLINE" not in seen


@pytest.mark.full
def test_a_wrong_setting_is_left_for_the_server_to_explain(image: Container) -> None:
    assert "MODEL_PATH" not in image.entrypoint(TP_SIZE="many")


@pytest.mark.full
def test_the_program_agrees_with_what_the_entry_point_says() -> None:
    with container() as made, hub(FILES) as url:
        bake(made.folder / "models", url, MODEL_NAME="org/model")
        script = str(made.program / "deploy/docker/entrypoint.sh")
        done = made.run(script, "settings", MODEL_NAME="org/model")
    assert done.returncode == 0, done.stderr
    row = next(line for line in done.stdout.splitlines() if line.startswith("MODEL_PATH"))
    assert row.split()[1:] == [f"{made.folder}/models/org--model", "MODEL_PATH"]


@pytest.mark.full
def test_a_shard_that_is_missing_stops_the_build(tmp_path: Path) -> None:
    files = {name: text for name, text in FILES.items() if name != "model-2.safetensors"}
    with hub(files) as url:
        done = bake(tmp_path / "models", url, MODEL_NAME="org/model")
    assert done.returncode == 1
    assert "names model-2.safetensors, which is not in the repository" in done.stderr


@pytest.mark.full
def test_a_model_that_is_refused_stops_the_build_in_one_line(tmp_path: Path) -> None:
    with hub(FILES, token="secret") as url:
        done = bake(tmp_path / "models", url, MODEL_NAME="org/model", HF_TOKEN="wrong")
    assert done.returncode == 1
    assert done.stderr.startswith("bake: cannot fetch org/model: ")
    assert "Traceback" not in done.stderr


def test_weights_that_have_no_double_are_kept() -> None:
    from deploy.docker.bake import duplicates

    assert "*.gguf" not in duplicates(["config.json", "model.gguf"])
    assert "*.pth" in duplicates(["pytorch_model.bin", "original/consolidated.00.pth"])
    assert "*.bin" not in duplicates(["pytorch_model.bin", "original/consolidated.00.pth"])
    assert "consolidated*" not in duplicates(["consolidated.safetensors", "params.json"])


def test_without_a_model_nothing_is_baked(tmp_path: Path) -> None:
    done = bake(tmp_path / "models", "http://127.0.0.1:9")
    assert done.returncode == 0
    assert list((tmp_path / "models").iterdir()) == []
