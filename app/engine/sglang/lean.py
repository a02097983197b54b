"""What SGLang and Transformers import, and no engine on a CPU uses: a quarter of the start.

Once for each process: FlashInfer and the part of CUTLASS that it needs, PyTorch's compiler for
three functions that CUDA's path calls, libraries of audio and of losses. All but the compiler are
optional to what is imported then, so they are made to look as if they were not installed.

Written against SGLang 0.5.23 and Transformers 5: `tests/engine/test_lean.py` fails first.
"""

from __future__ import annotations

import functools
import importlib.metadata
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

_UNUSED = ("flashinfer", "torchaudio", "soundfile", "scipy")


def import_less(*, on_cpu: bool) -> None:
    """To be called before SGLang is imported."""
    if sys.version_info < (3, 12):  # whose own counts other files
        importlib.metadata.packages_distributions = packages_distributions
    if not on_cpu:
        return
    for name in _UNUSED:
        # To Python it then cannot be imported, which the types of `sys.modules` leave out.
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]
    import torch

    torch.compile = _compiled_when_called(torch.compile)


def show_what_was_hidden() -> None:
    """To be called after it is imported: a model's own code may import it."""
    for name in _UNUSED:
        if name in sys.modules and sys.modules[name] is None:
            del sys.modules[name]


def packages_distributions() -> Mapping[str, list[str]]:
    """The same as importlib.metadata's, which Transformers calls at its import. That one takes a
    quarter of a second for what 300 packages say of themselves and the paths of their files."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for distribution in importlib.metadata.distributions():
        declared = (distribution.read_text("top_level.txt") or "").split()
        for package in declared or _modules(distribution):
            found[package].append(_name(distribution))
    return dict(found)


def _modules(distribution: importlib.metadata.Distribution) -> set[str]:
    """By its files, where it does not declare them."""
    record = distribution.read_text("RECORD")
    if record is None or '"' in record:
        paths = list(map(str, distribution.files or ()))
    else:
        paths = [line.partition(",")[0] for line in record.splitlines()]
    modules = (path for path in paths if path.endswith(".py"))
    return {path.partition("/")[0] if "/" in path else path[:-3] for path in modules}


def _name(distribution: importlib.metadata.Distribution) -> str:
    head, _, _ = (distribution.read_text("METADATA") or "").partition("\n\n")
    for line in head.splitlines():
        if line.startswith("Name: "):
            return line.removeprefix("Name: ")
    return distribution.metadata["Name"]


def _compiled_when_called(compile: Callable[..., Any]) -> Callable[..., Any]:
    """`torch.compile` that imports the compiler when what it returns is called."""

    def lazily(model: Any = None, **options: Any) -> Any:
        if model is None:
            return lambda function: lazily(function, **options)
        if isinstance(model, type) or not callable(model) or hasattr(model, "forward"):
            return compile(model, **options)
        compiled = functools.cache(lambda: compile(model, **options))

        @functools.wraps(model)
        def call(*args: Any, **kwargs: Any) -> Any:
            return compiled()(*args, **kwargs)

        call._torchdynamo_inline = model  # type: ignore[attr-defined]  # in what is compiled
        return call

    return lazily
