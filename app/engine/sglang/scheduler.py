"""SGLang's engine without its detokenizer, and what its schedulers do before SGLang's own code.

`Engine.run_scheduler_process_func` is SGLang's place for that (0.5.23, entrypoints/engine.py); it
starts replicas (DATA_PARALLEL_SIZE), too. The modules of SGLANG_EXTERNAL_MODEL_PACKAGE are imported
when the model is loaded, which is after torch.distributed is initialised.
"""

from __future__ import annotations

from typing import Any

from sglang.srt.entrypoints.engine import Engine
from sglang.srt.managers.scheduler import Scheduler, run_scheduler_process
from sglang.srt.managers.scheduler_components import output_streamer
from sglang.srt.managers.scheduler_components.output_streamer import SchedulerOutputStreamer

from app.engine.sglang.importing import ids_are_sent
from app.engine.sglang.loopback import keep_to_loopback
from app.engine.sglang.steps import StepSender


def run(server_args: Any, port_args: Any, *more: Any, **options: Any) -> None:
    """A scheduler's process, from start to end."""
    if ids_are_sent():
        # Where the server reads: what else SGLang sends to its detokenizer is passed on by that.
        port_args.detokenizer_ipc_name = port_args.tokenizer_ipc_name
        Scheduler.get_output_streamer_class = _streamer_class
        output_streamer.wrap_as_pickle = _not_sent
    run_scheduler_process(server_args, port_args, *more, **options)


def run_on_loopback(*arguments: Any, **options: Any) -> None:
    keep_to_loopback()
    run(*arguments, **options)


class IdStreamer(SchedulerOutputStreamer):  # type: ignore[misc]
    """Sends steps."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.rust_server = StepSender(self.send_to_detokenizer)


def _streamer_class(_: Any) -> type:
    return IdStreamer


def _not_sent(_: Any) -> None:
    """In place of the pickled times of all requests, which are made at every step and sent by none
    of the lean ways: 64 requests take half a millisecond."""


class ServedEngine(Engine):  # type: ignore[misc]
    """On several machines."""

    run_scheduler_process_func = staticmethod(run)

    @classmethod
    def _launch_detokenizer_subprocesses(cls, *arguments: Any, **options: Any) -> Any:
        if ids_are_sent():
            return [], []
        return super()._launch_detokenizer_subprocesses(*arguments, **options)


class SingleMachineEngine(ServedEngine):
    """For NNODES=1."""

    run_scheduler_process_func = staticmethod(run_on_loopback)
