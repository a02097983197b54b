"""Not a model: how the engine's processes load and unload LoRA adapters, in place of SGLang's own.

SGLang imports every module of this package in its scheduler (`srt/models/registry.py`). Written
against 0.5.23, `srt/lora/`. There

- a scheduler reads an adapter's file between two steps, while every stream stands still: here a
  thread reads it, and the scheduler is asked until it has (`read`, then `install`);
- a matrix of the wrong shape is found when the adapter is first used, and ends the scheduler: here
  it is put into a memory pool without memory first, which has the same shapes;
- an adapter whose requests were aborted may be unloaded before they have left the batch, which ends
  the scheduler: here it stays until they have;
- requests for the model itself, or for one adapter, wait without an end beside those for others:
  here the model has a place of its own, and who waits for long gets the next free one;
- weights stay in the operator's file, which may be replaced: here they are copied;
- matrices that have no place in the model, or share one, are left out: here they are refused;
- pinned memory is asked for on machines without a GPU, which torch refuses.

Drop when SGLang does all but the last, and that when its CPU backend needs it no more.
"""

from __future__ import annotations

import copy
import functools
import logging
import re
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from sglang.srt.lora.lora import LoRAAdapter
from sglang.srt.lora.lora_config import LoRAConfig
from sglang.srt.lora.lora_drainer import LoRADrainer
from sglang.srt.lora.lora_manager import LoRAManager
from sglang.srt.lora.utils import auto_detect_lora_target_modules, get_target_module_name
from sglang.srt.managers.io_struct import LoRAUpdateOutput
from sglang.srt.runtime_context import get_parallel
from torch.jit import _builtins

from app.engine.sglang.adapter_messages import IN_USE, INSTALL, READ, READING

logger = logging.getLogger(__name__)

_EXPERT = re.compile(r"(?<!shared_)experts\.")
_readers = ThreadPoolExecutor(1, thread_name_prefix="adapter")
_read: dict[str, tuple[Any, Future[tuple[Any, Any]]]] = {}
"""Id -> SGLang's reference to the adapter, and its configuration and weights once they are read."""


def _load(self: Any, reference: Any) -> Any:
    """Answer one of the server's messages about an adapter; every rank gets the same ones."""
    id = reference.lora_id
    if reference.lora_path != INSTALL:
        if id not in _read:
            _read[id] = reference, _readers.submit(_read_files, self, reference)
        return _answer(success=False, message=READ if _read[id][1].done() else READING)
    reference, reading = _read.pop(id)
    error = ""
    try:
        config, adapter = reading.result()
        self.validate_new_adapter(config, reference)
    except Exception as raised:  # whatever is wrong with it is this adapter's end, no other's
        logger.info("adapter refused", exc_info=True)
        error = f"{type(raised).__name__}: {raised}"
    if error := _of_all_ranks(error):
        return _answer(success=False, message=error)
    self.configs[id], self.loras[id] = config, adapter
    self.lora_refs[id] = reference
    return _answer(success=True)


def _of_all_ranks(error: str) -> str:
    """The first rank's error that there is: either all have the adapter, or none has."""
    if get_parallel().tp_size > 1:
        return next(filter(None, get_parallel().tp_group.all_gather_object(error)), "")
    return error


def _answer(*, success: bool, message: str = "") -> Any:
    # SGLang lists every adapter that is loaded, too, which the server knows.
    return LoRAUpdateOutput(success=success, error_message=message)


def _read_files(manager: Any, reference: Any) -> tuple[Any, Any]:
    """In the thread."""
    config = LoRAConfig(reference.lora_path, base_vocab_size=manager.base_hf_config.vocab_size)
    adapter = LoRAAdapter(
        reference.lora_id,
        config,
        manager.base_hf_config,
        manager.load_config,
        manager.lora_backend,
        base_model=manager.base_model,
    )
    with torch.inference_mode():
        adapter.initialize_weights()
        for no, layer in enumerate(adapter.layers):
            for name in layer.weights:
                weight = layer.weights[name] = layer.weights[name].clone()
                if not torch.isfinite(weight).all():
                    raise ValueError(f"{name} has values that are no numbers")
                _check_place(manager, no, name)
        _try_shapes(manager, adapter)
    return config, adapter


def _check_place(manager: Any, layer: int, name: str) -> None:
    """Raises ValueError if the model's layer has no module for this matrix."""
    target = get_target_module_name(name, manager.memory_pool.target_modules)
    places = {module.rpartition(".")[2] for module in manager.lora_modules[layer]}
    if _EXPERT.search(name):
        found = any(place.endswith("experts") for place in places)
    else:
        found = target.rpartition(".")[2] in places
    if not found:
        raise ValueError(f"{name} has no place in this model")


def _try_shapes(manager: Any, adapter: Any) -> None:
    """Put it into a pool as the engine's, of one place and no memory. Raises if it does not fit."""
    pool = copy.copy(manager.memory_pool)
    for name in ("A_buffer", "B_buffer"):
        setattr(
            pool,
            name,
            {
                module: [_shape_of(tensor) for tensor in tensors]
                for module, tensors in getattr(pool, name).items()
            },
        )
    for name in (
        "embedding_A_buffer", "embedding_B_buffer", "lm_head_A_buffer", "lm_head_B_buffer",
        "new_embeddings_buffer",
    ):  # fmt: skip
        shapes = {module: _shape_of(tensor) for module, tensor in getattr(pool, name).items()}
        setattr(pool, name, shapes)
    pool.pin_memory_available = False
    pool.strict_loading = True  # what has no place is an error
    pool.load_lora_weight_to_buffer(
        adapter.uid,
        0,
        adapter,
        manager.lora_modules,
        manager.embed_tokens_module,
        manager.lm_head_module,
    )


def _shape_of(tensor: Any) -> Any:
    return torch.empty_like(tensor[:1], device="meta")


def _fits(self: Any, ids: set[str | None]) -> bool:
    """SGLang gives the place of the model itself to any adapter."""
    return bool(_their_validate(self, ids | {None}))


class Drainer(LoRADrainer):  # type: ignore[misc]  # SGLang has no types
    """It makes room for an adapter that waits; the model itself needs none."""

    def __init__(self, places: int, wait_s: float) -> None:
        super().__init__(places - 1, wait_s)

    def update_draining_state(self, waiting_queue: list[Any], running_reqs: list[Any]) -> None:
        super().update_draining_state(
            [each for each in waiting_queue if each.lora_id is not None],
            [each for each in running_reqs if each.lora_id is not None],
        )


def _unload(self: Any, request: Any) -> Any:
    """Of the scheduler: it knows what runs."""
    id = request.lora_id
    if id in _read:
        _read.pop(id)[1].cancel()
    requests = {
        *self.collect_inflight_reqs(),
        *self.waiting_queue,
        *self.grammar_manager.grammar_queue,
        *([self.chunked_req] if self.chunked_req is not None else []),
        *(each for batch, _ in getattr(self, "result_queue", ()) for each in batch.reqs),
    }
    if any(each.lora_id == id for each in requests):
        return _answer(success=False, message=IN_USE)
    result = _their_unload(self, request)
    return _answer(success=result.success, message=result.error_message or "")


def _init_state(self: Any, *, target_modules: Any = None, **rest: Any) -> None:
    """`all` of SGLang means the embeddings, too, whose part of the pool is the largest."""
    if target_modules == {"all"}:
        target_modules = auto_detect_lora_target_modules(self.base_model)
        target_modules -= {"embed_tokens", "lm_head"}
    _their_init_state(self, target_modules=target_modules, **rest)


def _unpinned(make: Any) -> Any:
    @functools.wraps(make)
    def made(*arguments: Any, pin_memory: bool = False, **options: Any) -> Any:
        return make(*arguments, **options)

    # Else a script that calls it, as some models of Transformers are, could not be compiled.
    if (operator := _builtins._find_builtin(make)) is not None:
        _builtins._register_builtin(made, operator)
    return made


_their_init_state: Any = LoRAManager.init_state
LoRAManager.load_lora_adapter = _load
LoRAManager.init_state = _init_state
_their_validate: Any = LoRAManager.validate_lora_batch
LoRAManager.validate_lora_batch = _fits
_scheduler: Any = sys.modules.get("sglang.srt.managers.scheduler")
if _scheduler is not None:
    _their_unload: Any = _scheduler.Scheduler.unload_lora_adapter
    _scheduler.Scheduler.unload_lora_adapter = _unload
    _scheduler.LoRADrainer = Drainer
if not torch.accelerator.is_available():
    torch.Tensor.pin_memory = lambda self, *_: self
    for _name in ("tensor", "zeros", "ones", "empty", "full"):
        setattr(torch, _name, _unpinned(getattr(torch, _name)))
