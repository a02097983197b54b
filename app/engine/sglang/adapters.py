"""LoRA adapters of the engine: its options for them, and the messages that load and unload one.

    read_adapter ─> a folder of ours ─> READING ... READ ─> INSTALL ─> used ─> IN_USE ... unloaded

The other end of the messages is models/adapters.py, in the engine's processes. Written against
sglang 0.5.23; `tests/engine/test_sglang_contract.py` fails first when it changes.
"""

from __future__ import annotations

import asyncio
import shutil
import uuid
from pathlib import Path
from typing import Any

import orjson

from app.adapters.files import CONFIG, WEIGHTS, AdapterFiles, read_adapter
from app.engine.sglang.adapter_messages import IN_USE, INSTALL, READING
from app.errors import AdapterRefused, ConfigError, InternalError
from app.settings.catalogue import Settings

_POLL_S = 0.05
_LEAST_RANK = 16
_PATIENCE_S = 2.0
"""An adapter that waits for so long gets the next place that is free."""


def adapter_options(settings: Settings, *, on_cpu: bool) -> dict[str, Any]:
    """SGLang's options. Blocks while adapters are fetched. Raises ConfigError."""
    if not settings.serves_adapters:
        return {}
    rank = settings.max_lora_rank
    if rank is None:
        ranks = [_at_start(name, path).rank for name, path in settings.adapters.items()]
        rank = max([_LEAST_RANK, *ranks])
    return {
        "enable_lora": True,
        "max_lora_rank": rank,
        "lora_target_modules": list(settings.lora_target_modules or ("all",)),
        "max_loras_per_batch": settings.max_loras + 1,  # the model itself has one
        "lora_drain_wait_threshold": _PATIENCE_S,
        **({"lora_backend": "torch_native"} if on_cpu else {}),
    }


def _at_start(name: str, path: str) -> AdapterFiles:
    try:
        return read_adapter(_local(path))
    except AdapterRefused as error:
        raise ConfigError(f"the adapter {name!r}: {error.message}") from None


def _local(path: str) -> Path:
    """The adapter's folder; of a name on the hub, once it is fetched. Raises AdapterRefused."""
    folder = Path(path).expanduser()
    if folder.is_dir():
        return folder
    if path.startswith(("/", ".", "~")) or path.count("/") != 1:
        raise AdapterRefused("there is no such folder.")
    import httpx
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(huggingface_hub.snapshot_download(path, allow_patterns=[CONFIG, WEIGHTS]))
    except (
        HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, httpx.HTTPError, OSError,
    ) as error:  # fmt: skip
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
        raise AdapterRefused(f"it cannot be fetched: {reason}") from None


class EngineAdapters:
    """Those of one engine. All methods belong to the event loop."""

    def __init__(self, manager: Any, folder: Path) -> None:
        """`manager`: SGLang's TokenizerManager. `folder`: where the engine finds what it loads."""
        self._manager = manager
        self._folder = folder
        self._calls: set[asyncio.Future[list[Any]]] = set()

    async def load(self, name: str, path: str) -> str:
        """Returns its id. Raises AdapterRefused."""
        from sglang.srt.managers.io_struct import LoadLoRAAdapterReqInput

        id = uuid.uuid4().hex
        staged = self._folder / id

        def message(path: str) -> Any:
            # SGLang takes a name once; one that is unloaded may still have requests.
            return LoadLoRAAdapterReqInput(lora_name=f"{name}@{id}", lora_path=path, lora_id=id)

        await asyncio.to_thread(_stage, path, staged)
        await self._ask(message(str(staged)), until_not=READING)
        answers = await self._ask(message(INSTALL))
        if refusals := [each.error_message for each in answers if not each.success]:
            await self.unload(id)
            raise AdapterRefused(f"The engine cannot take it: {refusals[0]}"[:600])
        return id

    async def unload(self, id: str) -> None:
        """Raises InternalError."""
        from sglang.srt.managers.io_struct import UnloadLoRAAdapterReqInput

        request = UnloadLoRAAdapterReqInput(lora_name=id, lora_id=id)
        answers = await self._ask(request, until_not=IN_USE)
        if errors := [each.error_message for each in answers if not each.success]:
            raise InternalError(f"The engine did not let go of an adapter: {errors[0]}"[:400])
        await asyncio.to_thread(shutil.rmtree, self._folder / id, ignore_errors=True)

    async def _ask(self, message: Any, *, until_not: str | None = None) -> list[Any]:
        """The answers of the replicas; again, until none of them is `until_not`."""
        while True:
            # A call that is cancelled would leave its answers to the next one.
            call = asyncio.ensure_future(self._manager.update_lora_adapter_communicator(message))
            self._calls.add(call)
            call.add_done_callback(self._calls.discard)
            answers: list[Any] = await asyncio.shield(call)
            if until_not is None or all(each.error_message != until_not for each in answers):
                return answers
            await asyncio.sleep(_POLL_S)  # the engine answers questions, and sends no event

    def close(self) -> None:
        for call in self._calls:
            call.cancel()


def _stage(path: str, staged: Path) -> None:
    """A folder with what the engine must read, and no other file. Raises AdapterRefused."""
    files = read_adapter(_local(path))
    try:
        staged.mkdir(parents=True)
        (staged / CONFIG).write_bytes(orjson.dumps(files.config))
        (staged / WEIGHTS).symlink_to((files.folder / WEIGHTS).resolve())
    except OSError as error:
        raise AdapterRefused(f"TMPDIR: {error.strerror}.") from None
