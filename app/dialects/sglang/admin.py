"""Bodies of the operator's routes (web/admin.py).

Source: AbortReq and ProfileReq (sglang/srt/managers/io_struct.py) of SGLang 0.5.23.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from app.dialects.body import Body, Unsupported


class AbortBody(Body):
    rid: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    """A request's `X-Request-ID`, or the id in its answer."""
    abort_all: bool | None = None


class LoadAdapterBody(Body):
    """SGLang's `pinned` changes nothing here: what the operator loads stays loaded."""

    unsupported: ClassVar[Unsupported] = {"load_inplace": (False,)}

    lora_name: Annotated[str, Field(min_length=1, max_length=200)]
    lora_path: Annotated[str, Field(min_length=1, max_length=4096)]


class UnloadAdapterBody(Body):
    lora_name: Annotated[str, Field(min_length=1, max_length=200)]


class ProfileBody(Body):
    """The operator sets the profile's folder: SGLANG_TORCH_PROFILER_DIR. No request can."""

    unsupported: ClassVar[Unsupported] = {
        "detailed_annotations": (False,),
        "merge_profiles": (False,),
        "output_dir": (),
        "profile_by_stage": (False,),
        "profile_id": (),
        "profile_prefix": (),
        "profile_stages": (),
        "start_step": (),
    }

    num_steps: Annotated[int, Field(ge=1, le=10_000)] | None = None
    activities: list[Literal["CPU", "GPU", "MEM"]] | None = None
    with_stack: bool | None = None
    record_shapes: bool | None = None
