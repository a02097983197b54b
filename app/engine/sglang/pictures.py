"""Pictures as the model takes them, by SGLang's processor of its family.

    prompt with markers ─┐
    decoded pictures ────┴─ process_mm_data_async (thread) ─ checked ─ own identities ─ ids, inputs

SGLang is given pictures and never a URL, a path or a file: it would open them. What is done here
otherwise than there, and why:

- The processor is a second one, with a tokenizer of its own, and runs in threads: on the loop it
  would stop all streams for a tenth of a second, and without a deadline some inputs never return.
- Identities are those of the pixels and their size. SGLang's are of the features' bytes alone: two
  flat pictures of swapped sides would share a cache.
- Texts with the model's own markers are refused beside pictures: some end the scheduler.

Written against sglang 0.5.23; `tests/engine/test_sglang_contract.py` fails first when it changes.
"""

from __future__ import annotations

import asyncio
import copy
import hashlib
import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import psutil

from app.engine import environment
from app.engine.base import PictureInputs, Rendered
from app.errors import InvalidRequest, Unavailable
from app.logs.setup import log
from app.media.picture import Decoded
from app.settings.catalogue import Settings
from app.types import ChatPrompt, Json, Message, Picture, Text

TRIED = frozenset(
    {
        "Qwen2VLForConditionalGeneration",
        "Qwen2_5_VLForConditionalGeneration",
        "Qwen3VLForConditionalGeneration",
        "Gemma3ForConditionalGeneration",
    }
)
"""Architectures whose pictures were seen to work; Pixtral's and what the Transformers backend runs
are known otherwise (`was_tried`)."""
GREY = Decoded(56, 56, b"\x80" * 56 * 56 * 3)
WARM_UP = ChatPrompt(
    [Message(role="user", parts=(Picture("", "warm-up"), Text("What is this?")))], "warm-up"
)
"""A conversation with that picture."""
_OF_TRANSFORMERS = "TransformersAutoMultimodalProcessor"
"""SGLang's class for models that Transformers runs."""
_FEATURES = Path("/dev/shm")  # noqa: S108
_MARKER_IDS = (
    "image_token_id", "image_token_index", "video_token_id", "video_token_index", "audio_token_id",
    "vision_start_token_id", "vision_end_token_id", "boi_token_index", "eoi_token_index",
)  # fmt: skip
"""Of a model's configuration."""


class Inputs(msgspec.Struct):
    """What the scheduler needs of one prompt's pictures; each choice sends a copy of it."""

    output: Any
    """SGLang's `MultimodalProcessorOutput`; None once it has been sent as often as it has to be."""

    def drop(self) -> None:
        self.output = None

    async def copied(self) -> Any:
        """For one send, its features in shared memory: the scheduler takes and removes them.

        Made in a thread: it takes milliseconds for each dozen of megabytes. If the request ends
        meanwhile, nothing is left.
        """
        making = asyncio.ensure_future(asyncio.to_thread(self._copied))
        try:
            return await asyncio.shield(making)
        except asyncio.CancelledError:
            making.add_done_callback(_discard_made)
            raise

    def _copied(self) -> Any:
        from sglang.srt.managers.mm_utils import wrap_shm_features

        output = copy.copy(self.output)
        output.mm_items = [_copied(item) for item in output.mm_items]
        try:
            wrap_shm_features(SimpleNamespace(mm_inputs=output))
        except BaseException:  # raised again: only its segments must not stay
            discard([output])
            raise
        return output


async def prepare(inputs: PictureInputs | None, media: list[Any]) -> None:
    """Add what one send of a prompt with these pictures needs."""
    if isinstance(inputs, Inputs):
        media.append(await inputs.copied())


def discard(copies: Sequence[Any]) -> None:
    """Of those that were not sent."""
    from sglang.srt.managers.mm_utils import _discard_tensor_or_list

    for output in copies:
        for item in output.mm_items:
            _discard_tensor_or_list(item.feature)
            _discard_tensor_or_list(item.precomputed_embeddings)


def _discard_made(making: asyncio.Future[Any]) -> None:
    if not making.cancelled() and making.exception() is None:
        discard([making.result()])


class PictureProcessor:
    """The model's way to see pictures."""

    def __init__(self, manager: Any, *, timeout_s: float, threads: int) -> None:
        from sglang.srt.managers.mm_utils import determine_tensor_transport_mode
        from sglang.srt.managers.multimodal_processor import get_mm_processor

        self._manager = manager
        self._timeout_s = timeout_s
        made = get_mm_processor(
            manager.model_config.hf_config,
            manager.server_args,
            copy.deepcopy(manager.processor),
            determine_tensor_transport_mode(),
            model_config=manager.model_config,
        )
        self._processor = getattr(made, "inner", made)  # of Llava's wrapper, which lacks the rest
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="pictures")
        self._is_transformers = type(made).__name__ == _OF_TRANSFORMERS
        self.markers = _markers(manager, self._processor)
        self.marker: str = self._processor.mm_tokens.image_token
        self.pattern: re.Pattern[str] = self._processor.mm_tokens.image_token_regex
        """What the processor takes for one picture's place: one that is filled already, too."""

    def tokens(self, sizes: Sequence[tuple[int, int]]) -> list[int] | None:
        if getattr(self._processor, "image_config", None):
            return None  # it changes them, and is not counted
        images = [SimpleNamespace(width=width, height=height) for width, height in sizes]
        try:
            return list(self._processor.resolve_image_token_counts(images))
        except Exception:  # families without it raise what they happen to
            return None

    async def see(self, rendered: Rendered, pictures: Sequence[Decoded], *, param: str) -> Rendered:
        """Raises InvalidRequest, Unavailable."""
        loop = asyncio.get_running_loop()
        ordered = [pictures[no] for no in rendered.pictures]
        try:
            async with asyncio.timeout(self._timeout_s):
                output = await loop.run_in_executor(
                    self._threads, self._seen, rendered.text, ordered
                )
        except TimeoutError:
            log.warning("pictures took too long to be prepared", pictures=len(pictures))
            raise Unavailable(
                f"The pictures could not be prepared in {self._timeout_s:g} s "
                "(MEDIA_PREPARE_TIMEOUT); please try again."
            ) from None
        except Exception as error:  # each family's processor raises what it happens to
            if isinstance(error, MemoryError) or "OutOfMemory" in type(error).__name__:
                log.error("no memory to prepare pictures", error=repr(error)[:500])
                raise Unavailable("There is no memory to prepare the pictures.") from error
            log.warning("pictures were refused by the model's processor", error=repr(error)[:500])
            raise InvalidRequest(
                f"Invalid value for '{param}': the model cannot take these pictures.",
                param=param,
                code="image_parse_error",
            ) from error
        ids = list(output.input_ids)
        return msgspec.structs.replace(
            rendered,
            ids=ids,
            picture_tokens=_picture_tokens(output),
            inputs=Inputs(output),
        )

    def _seen(self, text: str, pictures: Sequence[Decoded]) -> Any:
        from PIL import Image
        from sglang.srt.managers.io_struct import GenerateReqInput
        from sglang.srt.managers.schedule_batch import MultimodalProcessorOutput

        images = [
            Image.frombytes("RGB", (each.width, each.height), each.pixels) for each in pictures
        ]
        request = GenerateReqInput(text=text, image_data=images, sampling_params={}, rid="pictures")
        work = self._processor.process_mm_data_async(
            image_data=images,
            audio_data=None,
            input_text=text,
            request_obj=request,
            max_req_input_len=self._manager.max_req_input_len,
        )
        try:
            output = asyncio.run(asyncio.wait_for(work, self._timeout_s))
        finally:
            if (
                cached := getattr(self._processor, "_cached_image_prompt_template", None)
            ) is not None:
                cached.cache_clear()  # it keeps the last prompts, whole
        if not isinstance(output, MultimodalProcessorOutput) or output.input_ids is None:
            raise ValueError("the processor gives no ids")
        self._check(output, len(pictures))
        _identify(output, pictures)
        return output

    def _check(self, output: Any, pictures: int) -> None:
        """Every picture's tokens, and no others, lie where the scheduler will look for them."""
        length = len(output.input_ids)
        spans = [span for item in output.mm_items for span in item.offsets or ()]
        if not all(item.offsets for item in output.mm_items):
            raise ValueError("a picture has no place")
        if any(not 0 <= begin <= end < length for begin, end in spans):
            raise ValueError("a picture's place is outside the prompt")
        in_one = self._is_transformers and len(output.mm_items) == 1
        if len(output.mm_items) != pictures and not in_one:
            raise ValueError(f"{len(output.mm_items)} of {pictures} pictures were seen")
        for id in (output.im_start_id, output.im_end_id):
            if id is not None and output.input_ids.count(id) != pictures:
                raise ValueError("a picture begins or ends where there is none")
        if output.im_token_id is None:
            return
        inside = {no for begin, end in spans for no in range(begin, end + 1)}
        if any(
            id == output.im_token_id and no not in inside for no, id in enumerate(output.input_ids)
        ):
            raise ValueError("a picture's token stands outside a picture")

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


def was_tried(config: Json, *, on_transformers: bool) -> bool:
    """Pictures of this model's family were seen to work here. `config`: of its config.json."""
    vision = config.get("vision_config")
    if not isinstance(vision, dict):
        return False
    by_name = TRIED.intersection(config.get("architectures") or ())
    return on_transformers or bool(by_name) or vision.get("model_type") == "pixtral"


def choose(options: Json, config: Json, settings: Settings) -> None:
    """Have SGLang take pictures, if they are wanted and the model's family is known to work."""
    on_transformers = options.get("model_impl") == "transformers"
    if not settings.images:
        options.setdefault("enable_multimodal", False)
    elif was_tried(config, on_transformers=on_transformers) and _has_processor(options):
        options.setdefault("enable_multimodal", True)
        # The others need leases to be given back, which SGLang's own way of sending does.
        options.setdefault("mm_feature_transport", "cpu")
        # With one it works where it is called, and no deadline ends it.
        options.setdefault("mm_processor_worker_num", 2)


def _sweep() -> None:
    """SGLang leaves the features of requests that its scheduler has not taken; remove those of
    servers that were killed."""
    for file in _FEATURES.glob("sgl_shm_mm_*_*"):
        pid = file.name.split("_")[3]
        if pid.isdigit() and not psutil.pid_exists(int(pid)):
            with suppress(OSError):  # another user's
                file.unlink(missing_ok=True)


def _has_processor(options: Json) -> bool:
    """Some copies of a model have no files for pictures: they are for text."""
    folder = Path(options["model_path"])
    names = ("preprocessor_config.json", "processor_config.json")
    return not folder.is_dir() or any((folder / name).exists() for name in names)


async def processor_of(manager: Any, settings: Settings) -> PictureProcessor | None:
    """None: the model takes none here."""
    if manager.mm_processor is None:
        return None
    # Llava's wrapper lacks what SGLang itself needs of it to empty its cache.
    manager.mm_processor = getattr(manager.mm_processor, "inner", manager.mm_processor)
    if not settings.images:
        return None
    model = manager.model_config
    on_transformers = type(manager.mm_processor).__name__ == _OF_TRANSFORMERS
    if not was_tried(model.hf_config.to_dict(), on_transformers=on_transformers):
        names = ", ".join(model.hf_config.architectures or ())
        if not settings.media_untested:
            log.warning(
                f"{names} is served for text: its pictures were not tested with this server; "
                "MEDIA_UNTESTED=true takes them"
            )
            return None
    _sweep()
    environment.join().also_remove(_FEATURES / f"sgl_shm_mm_{os.getpid()}_*")
    return await asyncio.to_thread(
        PictureProcessor,
        manager,
        timeout_s=settings.media_prepare_timeout_s,
        threads=settings.media_processes,
    )


def _identify(output: Any, pictures: Sequence[Decoded]) -> None:
    """Identities that tell pictures of other sizes apart, each of 32 bytes."""
    identities = [each.identity() for each in pictures]
    if len(output.mm_items) != len(identities):  # one for all
        identities = [hashlib.sha256(b"".join(identities)).digest()]
    for item, identity in zip(output.mm_items, identities, strict=True):
        item.set_identity(identity)
    output.padded_input_ids = None


def _picture_tokens(output: Any) -> int:
    return sum(end - begin + 1 for item in output.mm_items for begin, end in item.offsets or ())


def _copied(item: Any) -> Any:
    made = copy.copy(item)
    made.model_specific_data = dict(item.model_specific_data)
    return made


def _markers(manager: Any, processor: Any) -> tuple[str, ...]:
    """Texts that mean a picture, a film or a sound to the model."""
    config, tokenizer = manager.model_config.hf_config, manager.tokenizer
    ids = {
        id
        for each in (config, getattr(config, "text_config", None))
        for name in _MARKER_IDS
        if isinstance(id := getattr(each, name, None), int)
    }
    texts = {str(tokenizer.convert_ids_to_tokens(id)) for id in ids if id < len(tokenizer)}
    known = getattr(processor, "mm_tokens", None)
    for name in ("image_token", "video_token", "audio_token"):
        token = getattr(known, name, None)
        texts.update([token] if isinstance(token, str) else token or ())
    return tuple(sorted(filter(None, texts)))
