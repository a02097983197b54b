"""Bodies of the operator's routes (web/admin.py).

Source: AbortReq and ProfileReq (sglang/srt/managers/io_struct.py) of SGLang 0.5.23.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from app.dialects.body import Body, Unsupported


class AbortBody(Body):
    rid: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    """The request to end: its `X-Request-ID`, or the id in its answer. Required without
    `abort_all`."""
    abort_all: bool | None = None
    """End all requests. It takes precedence over `rid`. Default: false."""


class LoadAdapterBody(Body):
    """SGLang's `pinned` changes nothing here: what the operator loads stays loaded."""

    unsupported: ClassVar[Unsupported] = {"load_inplace": (False,)}

    lora_name: Annotated[str, Field(min_length=1, max_length=200)]
    """Name by which requests ask for the adapter as `model`."""
    lora_path: Annotated[str, Field(min_length=1, max_length=4096)]
    """Folder on the server's machine, or name on the hub."""


class UnloadAdapterBody(Body):
    lora_name: Annotated[str, Field(min_length=1, max_length=200)]
    """Name of the adapter."""


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
    """Number of the engine's steps after which the profile ends by itself. Default: it ends with
    `/stop_profile`."""
    activities: list[Literal["CPU", "GPU", "MEM"]] | None = None
    """What to record. Default: the CPU and the GPU."""
    with_stack: bool | None = None
    """Record the stack of each operation, too. Default: true."""
    record_shapes: bool | None = None
    """Record the shapes of tensors, too. Default: true."""
