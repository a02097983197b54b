"""Put a model into the image, while it is built: bake.py FOLDER.

MODEL_NAME (nothing is done without it), MODEL_REVISION, TOKENIZER_NAME, TOKENIZER_REVISION and
QUANTIZATION are worker-vllm's build arguments. The token for gated models is the build secret
HF_TOKEN. baked.py reads FOLDER/baked.json, which this writes, when the container starts.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

BUILD_ARGUMENTS = (
    "MODEL_NAME",
    "MODEL_REVISION",
    "TOKENIZER_NAME",
    "TOKENIZER_REVISION",
    "QUANTIZATION",
)
TOKEN = Path("/run/secrets/HF_TOKEN")
# Copies of the weights that SGLang does not read, each next to one that it does.
DUPLICATES = (
    "original/*", "onnx/*", "openvino/*", "coreml/*",
    "*.pth", "*.gguf", "*.onnx", "*.h5", "*.msgpack", "*.ot", "*.tflite",
)  # fmt: skip
DUPLICATES_OF_SAFETENSORS = ("*.bin", "*.bin.index.json", "*.pt", "consolidated*")


class BakeError(Exception):
    """The model cannot be put into the image. `str()` is one line."""


def main() -> int:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    arguments = {name: os.environ.get(name, "") for name in BUILD_ARGUMENTS}
    if not arguments["MODEL_NAME"]:
        print("bake: no MODEL_NAME, no model in this image")
        return 0
    try:
        (folder / "baked.json").write_text(json.dumps(bake(arguments, folder), indent=2) + "\n")
    except BakeError as error:
        print(f"bake: {error}", file=sys.stderr)
        return 1
    return 0


def bake(arguments: dict[str, str], folder: Path) -> dict[str, Any]:
    """Download. Returns what baked.py reads: the build arguments, and the settings to serve by."""
    model = download(arguments["MODEL_NAME"], arguments["MODEL_REVISION"], folder)
    check_complete(model)
    settings = {"MODEL_PATH": str(model), "SERVED_MODEL_NAME": arguments["MODEL_NAME"]}
    if arguments["TOKENIZER_NAME"]:
        tokenizer = download(
            arguments["TOKENIZER_NAME"], arguments["TOKENIZER_REVISION"], folder / "tokenizer",
            ignore=("*.safetensors", "*.bin", "*.pt", *DUPLICATES),
        )  # fmt: skip
        settings["TOKENIZER_PATH"] = str(tokenizer)
    if arguments["QUANTIZATION"]:
        settings["QUANTIZATION"] = arguments["QUANTIZATION"]
    return {"asked": arguments, "settings": settings}


def download(repo: str, revision: str, folder: Path, ignore: tuple[str, ...] = ()) -> Path:
    """One commit of a repository, as plain files that every user may read."""
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    token = TOKEN.read_text().strip() if TOKEN.exists() else None
    target = folder / repo.replace("/", "--")
    try:
        info = HfApi(token=token).model_info(repo, revision=revision or None)
        files = [sibling.rfilename for sibling in info.siblings or ()]
        skipped = ignore or duplicates(files)
        print(f"bake: {repo} at {info.sha}", flush=True)
        snapshot_download(
            repo, revision=info.sha, local_dir=target, ignore_patterns=list(skipped), token=token
        )
    except (HfHubHTTPError, OSError) as error:
        raise BakeError(f"cannot fetch {repo}: {str(error).splitlines()[0]}") from error
    shutil.rmtree(target / ".cache", ignore_errors=True)  # the download's own notes
    for path in (target, *target.rglob("*")):
        path.chmod(path.stat().st_mode | (0o555 if path.is_dir() else 0o444))
    return target


def duplicates(files: list[str]) -> tuple[str, ...]:
    """Patterns of weights that are left out because the same weights remain in another format."""
    top = [name for name in files if "/" not in name]
    if any(fnmatch(name, "*.safetensors") and not fnmatch(name, "consolidated*") for name in top):
        return (*DUPLICATES, *DUPLICATES_OF_SAFETENSORS)
    if any(fnmatch(name, pattern) for name in top for pattern in ("*.safetensors", "*.bin")):
        return DUPLICATES
    return ()


def check_complete(model: Path) -> None:
    """Every shard that an index names is there."""
    if not (model / "config.json").exists():
        raise BakeError(f"{model.name} has no config.json; is it a model?")
    for index in model.glob("*.index.json"):
        shards = set(json.loads(index.read_text())["weight_map"].values())
        if missing := sorted(shard for shard in shards if not (model / shard).exists()):
            raise BakeError(f"{index.name} names {missing[0]}, which is not in the repository")


if __name__ == "__main__":
    sys.exit(main())
