"""The SGLang engine inside this process. No other file knows SGLang.

Written against sglang 0.5.23; `tests/engine/test_sglang_contract.py` fails first when it changes.

    serving process                               children
    ┌───────────────────────────────┐   ipc   ┌──────────────┐
    │ event loop: TokenizerManager ─┼────────>│ scheduler(s) │  the model
    │      ^ handle_loop            │         └──────┬───────┘
    │      └────────────────────────┼───<── detokenizer <──┘
    │ engine thread: built Engine,  │
    │ then waits for ever           │
    └───────────────────────────────┘

Three things that SGLang would do by itself are done here instead:
- its read loop runs as a task of ours (`handle_loop`): left alone it takes SIGTERM and SIGQUIT for
  itself at the first request, and kills the whole process tree if it fails;
- its watchdog is stopped: `Watch` sees a child's end at once, not within a second, and lets the
  requests inside be answered before the process goes;
- the children are born with SIGINT and SIGTERM blocked, so that Ctrl-C in a terminal, or a service
  manager that signals the whole group, does not take the engine away during a drain.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import difflib
import json
import multiprocessing
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from multiprocessing import resource_tracker
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil

from app.engine import demo, environment
from app.engine.base import Chunk, EngineInfo, EngineLost, Rendered
from app.errors import ConfigError, InternalError, InvalidRequest, Overloaded, StartError
from app.logs import log
from app.settings import Settings
from app.types import Message, Sampling

_CLOSE_TIMEOUT_S = 10.0
_CHILD_POLL_S = 0.2
_FAILED_CHILD_GRACE_S = 8.0
"""SGLang looks every 5 s whether a child that it waits for has ended."""
_CPU_KV_POOL_TOKENS = 65_536
"""SGLang would take most of the memory, and ten seconds to fill it with zeros."""


async def launch(
    settings: Settings, runtime: environment.RuntimeDir, loading: Callable[[], None]
) -> SGLangEngine:
    """Import SGLang and load the model; `loading` is called when the import is done.

    Raises ConfigError or StartError with one clear line, EngineLost if a child is killed meanwhile.
    """
    loop = asyncio.get_running_loop()
    built: asyncio.Future[Any] = loop.create_future()
    watch = Watch()

    def settle(engine: Any, error: BaseException | None) -> None:
        if built.done():
            return
        if error is None:
            built.set_result(engine)
        else:
            built.set_exception(error)

    def announce() -> None:
        loop.call_soon_threadsafe(loading)

    def build() -> None:
        try:
            engine = _build(settings, announce)
        except BaseException as error:  # reported to the loop; there is nobody else in this thread
            if isinstance(error, SystemExit):
                error = StartError(f"SGLang ended the start (exit {error.code})")
            loop.call_soon_threadsafe(settle, None, error)
            return
        loop.call_soon_threadsafe(settle, engine, None)
        # The children asked the kernel to be killed when the *thread* that made them ends.
        threading.Event().wait()

    threading.Thread(target=build, name="engine", daemon=True).start()
    watching = loop.create_task(watch.gather(built))
    try:
        engine = await watch.unless_lost(built)
    except (StartError, EngineLost):
        raise
    except Exception as error:
        if (killed := watch.killed()) is not None:
            raise EngineLost(killed) from error
        reason = runtime.last_error() or f"{type(error).__name__}: {error}".splitlines()[0][:400]
        raise StartError(f"the engine could not be started: {reason}") from error
    finally:
        watching.cancel()
    return SGLangEngine(engine, watch)


def _build(settings: Settings, loading: Callable[[], None]) -> Any:
    """Everything that blocks, in the engine thread: demo model, imports, children, weights."""
    # Children inherit what this thread blocks. The tracker first: starting it unblocks both.
    resource_tracker.ensure_running()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    model_path = (
        _fetch_demo(Path(settings.cache_dir).expanduser())
        if settings.demo
        else _check_model_path(settings.model_path)
    )
    import torch

    on_cpu = _choose_cpu(settings.device, torch)
    if on_cpu:
        environment.use_cpu()
    from sglang.srt.entrypoints.engine import Engine
    from sglang.srt.server_args import ServerArgs

    options: dict[str, Any] = {
        "log_level": settings.log_level,
        "incremental_streaming_output": True,
        "enable_metrics": settings.enable_metrics,
    }
    if on_cpu:
        options |= {
            "device": "cpu",
            "attention_backend": "torch_native",
            "max_total_tokens": _CPU_KV_POOL_TOKENS,
            # An idle scheduler polls without a pause; on a GPU machine that costs a core of many,
            # here it would be one of those that compute.
            "sleep_on_idle": True,
        }
    elif settings.device is not None:
        options["device"] = settings.device
    _check_reserved(settings.engine_args)
    options |= settings.engine_options() | {"model_path": str(model_path)}
    _check_options(options, ServerArgs)
    loading()
    return Engine(**options)


def _fetch_demo(cache: Path) -> Path:
    if (found := demo.find(cache)) is not None:
        return found
    # In a process of its own: the conversion loads the model through another library.
    made = subprocess.run(
        [sys.executable, "-m", "app.engine.demo", "--cache", str(cache)],
        stdout=subprocess.DEVNULL,
        cwd=Path(__file__).parents[2],
    )
    if made.returncode != 0 or (found := demo.find(cache)) is None:
        raise StartError("the demo model could not be fetched; the line above says why")
    return found


def _check_model_path(model_path: str) -> str:
    """Find the mistakes that SGLang reports late or in fifty lines."""
    path = Path(model_path).expanduser()
    looks_local = model_path.startswith(("/", "./", "../", "~"))
    if not path.exists():
        if looks_local:
            raise ConfigError(f"MODEL_PATH: there is nothing at {model_path}")
        return model_path
    config = path / "config.json"
    if path.is_dir() and config.exists():
        try:
            json.loads(config.read_text())
        except ValueError as error:
            raise ConfigError(f"MODEL_PATH: {config} is not JSON: {error}") from None
    return str(path)


def _choose_cpu(device: str | None, torch: Any) -> bool:
    """True if the engine shall run on the CPU; ConfigError if the device asked for is missing."""
    present = torch.accelerator.current_accelerator(check_available=True)
    if device == "cpu":
        return True
    if device is None:
        if present is None:
            log.warning("no GPU found: serving on the CPU, which is slow; DEVICE=cuda forbids it")
        return present is None
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("DEVICE=cuda, but no usable CUDA GPU was found")
    return False


_RESERVED = {
    "model_path": "set MODEL_PATH instead",
    "device": "set DEVICE instead",
    "api_key": "set API_KEY instead",
    "admin_api_key": "the engine's own HTTP server is not used",
    "incremental_streaming_output": "this server needs it as it is",
    "skip_tokenizer_init": "this server tokenises every prompt",
    "is_embedding": "embeddings are not served yet",
    "tokenizer_worker_num": "one process serves one engine",
    "enable_metrics": "set ENABLE_METRICS instead",
}


def _check_reserved(engine_args: dict[str, Any]) -> None:
    for name in engine_args.keys() & _RESERVED.keys():
        raise ConfigError(f"ENGINE_ARGS: {name} cannot be set here: {_RESERVED[name]}")


def _check_options(options: dict[str, Any], server_args: Any) -> None:
    """Refuse what SGLang does not know, with the nearest name that it does."""
    import msgspec

    fields = {field.name: field for field in msgspec.structs.fields(server_args)}
    for name, value in options.items():
        if name not in fields:
            near = difflib.get_close_matches(name, fields, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ConfigError(f"ENGINE_ARGS: SGLang has no option {name!r}{hint}")
        for about in getattr(fields[name].type, "__metadata__", ()):
            choices = getattr(about, "choices", None)
            if choices and value is not None and value not in choices:
                listed = ", ".join(map(str, choices))
                raise ConfigError(f"{name.upper()}: SGLang takes one of {listed}; not {value!r}")


class Watch:
    """Notices at once when a child process of the engine ends."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._seen: dict[int, Any] = {}
        self._closing = False
        self.lost: asyncio.Future[str] = self._loop.create_future()

    @property
    def processes(self) -> list[Any]:
        return list(self._seen.values())

    async def gather(self, built: asyncio.Future[Any]) -> None:
        """Take in new children until the engine is built."""
        while not built.done():
            self._look()
            await asyncio.sleep(_CHILD_POLL_S)

    async def unless_lost(self, built: asyncio.Future[Any]) -> Any:
        """The engine once it is built; EngineLost if a child is lost before.

        A child that ends by itself has usually logged why, and SGLang is about to raise: it is
        given a moment to. One that was killed says nothing.
        """
        await asyncio.wait({built, self.lost}, return_when=asyncio.FIRST_COMPLETED)
        if not built.done() and self.killed() is None:
            await asyncio.wait({built}, timeout=_FAILED_CHILD_GRACE_S)
        if not built.done():
            raise EngineLost(self.lost.result())
        engine = built.result()
        self._look()
        for process in self.processes:
            with contextlib.suppress(psutil.Error):
                process.name = psutil.Process(process.pid).cmdline()[0]  # sglang::scheduler, ...
        return engine

    def killed(self) -> str | None:
        """Which process was ended by a signal from outside, if one was."""
        return next((_end_of(p) for p in self.processes if (p.exitcode or 0) < 0), None)

    def close(self) -> None:
        """From now on a child's end is what we want."""
        self._closing = True
        for process in self.processes:
            self._loop.remove_reader(process.sentinel)

    def _look(self) -> None:
        for process in multiprocessing.active_children():
            if process.pid is not None and process.pid not in self._seen:
                self._seen[process.pid] = process
                self._loop.add_reader(process.sentinel, self._ended, process)

    def _ended(self, process: Any) -> None:
        self._loop.remove_reader(process.sentinel)
        process.join(timeout=1)
        if not self._closing and not self.lost.done():
            self.lost.set_result(_end_of(process))


def _end_of(process: Any) -> str:
    code = process.exitcode
    how = f"killed by {signal.Signals(-code).name}" if code and code < 0 else f"exit {code}"
    return f"an engine process ({process.name}, pid {process.pid}): {how}"


class SGLangEngine:
    """`Engine` over sglang.Engine."""

    def __init__(self, engine: Any, watch: Watch) -> None:
        from sglang.version import __version__

        self._engine = engine
        self._manager = engine.tokenizer_manager
        self._watch = watch
        self._closed = False
        self._in_flight = 0
        self._asked_since = 0.0
        self.lost = watch.lost
        self._tokenizer = self._manager.tokenizer
        # The fast tokenizers forbid use from two threads at once; prompts are prepared in one
        # thread beside the loop, stop strings are tokenised by SGLang on the loop.
        self._thread_tokenizer = copy.deepcopy(self._tokenizer)
        self._loop_thread = threading.get_ident()

        model, args = self._manager.model_config, engine.server_args
        scheduler = engine._scheduler_init_result.scheduler_infos[0]
        self.info = EngineInfo(
            model_path=args.model_path,
            version=f"sglang {__version__}",
            device=args.device,
            context_length=self._manager.context_len,
            max_prompt_tokens=scheduler["max_req_input_len"] - 1,
            vocab_size=model.vocab_size,
            honours_seed=bool(args.enable_deterministic_inference),
            default_sampling=model.get_default_sampling_params(),
        )
        self._template_knows_developer = "developer" in str(self._tokenizer.chat_template)
        self._take_over()

    def _take_over(self) -> None:
        manager, loop = self._manager, asyncio.get_running_loop()
        if manager._subprocess_watchdog is not None:
            manager._subprocess_watchdog.stop()
        manager.event_loop = loop  # auto_create_handle_loop() then has nothing left to do
        self._reading = loop.create_task(manager.handle_loop(), name="engine-handle-loop")
        self._reading.add_done_callback(self._reading_ended)

    def _reading_ended(self, task: asyncio.Task[None]) -> None:
        if task.cancelled() or self.lost.done():
            return
        log.error("SGLang's read loop failed", exc_info=task.exception())
        self.lost.set_result(f"SGLang's read loop failed: {task.exception()!r}"[:300])

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self._own_tokenizer()(text)["input_ids"]
        return ids

    def render(self, messages: Sequence[Message]) -> Rendered:
        from jinja2 import TemplateError

        templates = self._engine.template_manager
        if templates.chat_template_name is not None:
            return self._render_by_name(messages, templates.chat_template_name)
        tokenizer = self._own_tokenizer()
        if tokenizer.chat_template is None:
            raise InvalidRequest(
                "This model has no chat template; use /v1/completions, or start the server with "
                "CHAT_TEMPLATE.",
                param="messages",
            )
        shaped = [self._shape(m, templates.jinja_template_content_format) for m in messages]
        try:
            ids: list[int] = tokenizer.apply_chat_template(
                shaped, add_generation_prompt=True, tokenize=True, return_dict=False
            )
        except (TemplateError, TypeError, ValueError, KeyError) as error:
            # Templates refuse conversations by raising: "roles must alternate", and the like.
            raise InvalidRequest(
                f"The model's chat template refuses these messages: {error}"[:400],
                param="messages",
            ) from error
        return Rendered(ids)

    async def generate(
        self, prompt: list[int], sampling: Sampling, *, id: str, choices: int
    ) -> AsyncGenerator[Chunk, None]:
        params = self._sampling_params(sampling)
        if choices > 1:
            params["n"] = choices
        if not self._in_flight:
            self._asked_since = time.time()
        self._in_flight += 1
        answered = False
        try:
            stream = await self._engine.async_generate(
                input_ids=prompt, sampling_params=params, stream=True, rid=id
            )
            async with aclosing(stream):
                async for piece in stream:
                    yield _chunk(piece)
                    answered = True
        except ValueError as error:
            if answered:
                raise
            # Before its first output SGLang refuses a request this way. Ours are checked before
            # they get here, so this names a bound that we do not know of.
            log.warning("SGLang refused a request", reason=str(error)[:400])
            raise InvalidRequest(str(error)[:400]) from error
        finally:
            self._in_flight -= 1

    def silent_s(self) -> float:
        if not self._in_flight:
            return 0.0
        last_heard: float = self._manager.last_receive_tstamp
        return max(0.0, time.time() - max(last_heard, self._asked_since))

    async def warm_up(self) -> None:
        prompt = self.encode("Hello") or [0]
        sampling = Sampling(max_tokens=1, temperature=0.0, ignore_eos=True)
        async with aclosing(
            self.generate(prompt, sampling, id="warmup" + "0" * 26, choices=1)
        ) as stream:
            tokens = [chunk.completion_tokens async for chunk in stream]
        if tokens[-1:] != [1]:
            raise StartError("the engine did not generate a token when it was warmed up")

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._watch.close()
        await self._ask_schedulers_to_end()
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)
        await asyncio.to_thread(self._engine.shutdown)

    async def _ask_schedulers_to_end(self) -> None:
        """SGLang's schedulers release GPU memory and NCCL only when they are asked to end."""
        from sglang.srt.managers.io_struct import ShutdownReq

        schedulers = [p for p in self._watch.processes if p.is_alive() and "scheduler" in p.name]
        if not schedulers:
            return
        self._manager._dispatch_to_scheduler(ShutdownReq())
        deadline = time.monotonic() + _CLOSE_TIMEOUT_S
        while any(p.is_alive() for p in schedulers) and time.monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.05)

    def _own_tokenizer(self) -> Any:
        on_loop = threading.get_ident() == self._loop_thread
        return self._tokenizer if on_loop else self._thread_tokenizer

    def _shape(self, message: Message, content_format: str) -> Message:
        """The message as the model's template expects it."""
        message = dict(message)
        if message["role"] == "developer" and not self._template_knows_developer:
            message["role"] = "system"
        content = message.get("content")
        if content is None:
            message["content"] = ""
        elif isinstance(content, list) and content_format != "openai":
            message["content"] = "\n".join(part["text"] for part in content)
        return message

    def _render_by_name(self, messages: Sequence[Message], name: str) -> Rendered:
        """One of SGLang's named conversation templates (CHAT_TEMPLATE=llama-2, chatml, ...)."""
        from sglang.srt.parser.conversation import generate_chat_conv

        shaped = [SimpleNamespace(**self._shape(m, "string")) for m in messages]
        for message in shaped:
            if message.role not in ("system", "user", "assistant"):
                raise InvalidRequest(
                    f"The chat template {name!r} has no role {message.role!r}.", param="messages"
                )
        conversation = generate_chat_conv(SimpleNamespace(messages=shaped), name)
        stop = conversation.stop_str or ()
        return Rendered(
            self.encode(conversation.get_prompt()),
            (stop,) if isinstance(stop, str) else tuple(stop),
        )

    def _sampling_params(self, sampling: Sampling) -> dict[str, Any]:
        """SGLang's names; only what differs from its defaults, which it then need not check."""
        params: dict[str, Any] = dict(self.info.default_sampling)
        # Absent would mean 128; None means up to the end of the context.
        params["max_new_tokens"] = sampling.max_tokens
        for name in ("temperature", "top_p", "top_k", "min_p", "repetition_penalty"):
            if (value := getattr(sampling, name)) is not None:
                params[name] = value
        if sampling.min_tokens:
            params["min_new_tokens"] = sampling.min_tokens
        if sampling.frequency_penalty:
            params["frequency_penalty"] = sampling.frequency_penalty
        if sampling.presence_penalty:
            params["presence_penalty"] = sampling.presence_penalty
        if sampling.stop:
            params["stop"] = list(sampling.stop)
        if sampling.stop_token_ids:
            params["stop_token_ids"] = set(sampling.stop_token_ids)
        if sampling.ignore_eos:
            params["ignore_eos"] = True
        if not sampling.skip_special_tokens:
            params["skip_special_tokens"] = False
        if sampling.logit_bias:
            params["logit_bias"] = sampling.logit_bias
        if sampling.seed is not None and self.info.honours_seed:
            params["sampling_seed"] = sampling.seed
        return params


def _chunk(piece: dict[str, Any]) -> Chunk:
    """One of SGLang's output dicts. Raises what an abort means."""
    meta = piece["meta_info"]
    finish = meta["finish_reason"]
    if finish is None:
        return Chunk(
            piece.get("index", 0), piece["text"], meta["prompt_tokens"], meta["completion_tokens"],
            meta["cached_tokens"],
        )  # fmt: skip
    kind, matched = finish["type"], finish.get("matched")
    if kind == "abort":
        raise _aborted(finish)
    if kind not in ("stop", "length") or matched == "NaN happened":
        raise InternalError("The model's output could not be sampled.")
    return Chunk(
        piece.get("index", 0), piece["text"], meta["prompt_tokens"], meta["completion_tokens"],
        meta["cached_tokens"], meta.get("reasoning_tokens") or 0, kind, matched,
    )  # fmt: skip


def _aborted(finish: dict[str, Any]) -> Exception:
    message = str(finish.get("message") or "The engine ended this request.")[:400]
    match finish.get("status_code"):
        case 400:
            return InvalidRequest(message)
        case 503:
            return Overloaded(message)
        case _:
            return InternalError(message)
