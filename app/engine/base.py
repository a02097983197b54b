"""The engine as the server knows it: a protocol, and the structs that pass it.

Two implementations: `engine/sglang/` runs a model, `engine/scripted.py` plays a script without one.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any, Protocol

import msgspec

from app.events import EndReason, ScoredToken
from app.grammars.compiler import Vocabulary
from app.lifecycle import Phase
from app.media.picture import Decoded
from app.reading.pieces import Reader
from app.types import ChatPrompt, Grammar, Json, Sampling, Scoring


class EngineInfo(msgspec.Struct, frozen=True, kw_only=True):
    """Facts about the loaded model."""

    model_path: str
    version: str
    """Of the engine, such as `sglang 0.5.23`."""
    fingerprint: str | None = None
    """If it changes, the same request may be answered otherwise."""
    device: str
    context_length: int
    """Tokens, prompt and answer together."""
    max_prompt_tokens: int
    """The longest prompt that the engine accepts."""
    vocab_size: int
    """Rows of the embedding: every token id is below it."""
    model_type: str | None = None
    """As its config.json says, such as `llama`."""
    architectures: tuple[str, ...] = ()
    honours_seed: bool = False
    drafts: bool = False
    """It decodes speculatively."""
    default_sampling: dict[str, Any] = {}
    """The model's own generation config, and the operator's: temperature, top_p, top_k, min_p,
    repetition_penalty."""
    tool_call_parser: str | None = None
    """Name of the format in which the model calls tools, as the engine's operator knows it; None:
    the model has no format of its own. Shown to clients, used by nothing else."""
    reasoning_parser: str | None = None
    """The same for the format in which the model thinks; None: it does not think."""
    bounds_thinking: bool = True
    """A budget of thinking can be kept: the format ends thinking with a marker of its own."""
    caches_prefixes: bool = True
    """What prompts begin with is read only once."""
    takes_pictures: bool = False
    picture_marker: str = ""
    """What stands in a prompt for one picture."""
    picture_pattern: re.Pattern[str] | None = None
    """What the engine takes for that: more than the marker alone."""
    picture_markers: tuple[str, ...] = ()
    """Texts that mean a picture, or a part of one, to the model, and other kinds of media."""
    serves_adapters: bool = False
    """LoRA adapters can be loaded."""
    searches_beams: bool = False
    fills_middle: bool = False
    """It was trained to fill a gap in a text."""
    embedding_size: int | None = None
    """Length of its vectors if it is an embedding model, which generates nothing; else None."""
    dimensions: tuple[int, ...] | None = None
    """Shorter lengths that its vectors may be cut to; empty: any; None: it was not trained so."""

    @property
    def embeds(self) -> bool:
        return self.embedding_size is not None


class Chunk(msgspec.Struct, frozen=True, gc=False):
    """What one choice gained since its last chunk, in one step of the engine or several.

    `text` is new text; the counts are totals.
    """

    index: int
    text: str
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    reasoning_tokens: int = 0
    finish: EndReason | None = None
    matched: str | int | None = None
    ids: Sequence[int] = ()
    """The new tokens."""
    scored: tuple[ScoredToken, ...] = ()
    """The new tokens with their log-probabilities, if the question wants them."""
    prompt: Sequence[ScoredToken] = ()
    """The prompt's tokens with theirs, in one chunk only, if the question wants them."""
    prompt_goes_on: bool = False
    """The next chunk has more of `prompt`. Not of an engine's: generation/pieces.py cuts it."""


class PictureInputs(Protocol):
    """What an engine has made of the pictures of a prompt: it may be tens of megabytes."""

    def drop(self) -> None:
        """Let go of them: the engine has them."""


class Rendered(msgspec.Struct, frozen=True):
    """A prompt as token ids, and what follows from it for the answer."""

    ids: list[int]
    stop: tuple[str, ...] = ()
    """Stop strings of the chat template."""
    grammar: Grammar | None = None
    """The grammar that the engine must enforce: the request's, that of required calls, or both."""
    reader: Callable[[], Reader | None] | None = None
    """Makes the reader of one choice's text; None, itself or returned: the text is the answer."""
    gates_grammar: bool = False
    """The grammar applies only once the thinking is over."""
    keep_special_tokens: bool = False
    """The output's markers are special tokens, and the reader must get them."""
    text: str = ""
    """Of a prompt with pictures: the prompt, with the model's marker for each."""
    pictures: tuple[int, ...] = ()
    """The request's pictures in the order in which the prompt has them."""
    picture_tokens: int = 0
    """Of `ids`."""
    inputs: PictureInputs | None = None
    """What the engine needs of the pictures."""


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """One prompt to generate from, and how."""

    prompt: list[int]
    """Token ids."""
    sampling: Sampling
    scoring: Scoring | None = None
    gates_grammar: bool = False
    """A grammar in `sampling` applies only once the thinking is over."""
    token_ids: bool = False
    """Chunks carry the answer's token ids."""
    cache_scope: str = ""
    """The part of the prefix cache that the prompt is in."""
    whole: bool = False
    """The answer is not read as it comes: it may come in few chunks, the first of them still at the
    first token."""
    inputs: PictureInputs | None = None
    """As of `Rendered`."""
    adapter: str | None = None
    """The id of the adapter that answers; None: the model itself does."""


class Embedding(msgspec.Struct, frozen=True):
    """One prompt's vector and the prompt's tokens."""

    vector: list[float]
    """float32, L2-normalised."""
    prompt_tokens: int


class Load(msgspec.Struct, frozen=True):
    """The work of one replica of the engine, as its scheduler last reported it."""

    replica: int
    running: int
    """Requests in the batch."""
    waiting: int
    """Requests in its queue."""
    used_tokens: int
    """KV cache in use."""
    max_tokens: int
    """KV cache in all."""
    tokens_per_s: float
    max_running: int = 0
    """The largest batch."""


class Memory(Protocol):
    """What an idle engine can give back. Raises ServeError."""

    async def is_idle(self) -> bool:
        """No replica has a request, not even one that was aborted; empties the prefix cache."""

    async def release(self) -> None:
        """Of an idle engine. Weights and cache leave the GPU; nothing may be generated until
        `resume`."""

    async def resume(self) -> None: ...


class EngineProcess(Protocol):
    """A process of the engine."""

    pid: int
    name: str
    """Its title, such as `sglang::scheduler`."""

    def is_alive(self) -> bool: ...


class Watched(Protocol):
    """The engine's processes, and who watches over them."""

    lost: asyncio.Future[str]
    """Done when one of the processes has ended; its result is which one and how."""
    owner: int
    """Pid of the process that has started them."""

    @property
    def processes(self) -> Sequence[EngineProcess]: ...

    def close(self) -> None:
        """From now on the end of a process is expected."""


class Starting(Protocol):
    """Who is told of a start's progress."""

    def loading(self) -> None:
        """The engine's processes begin to load the model."""

    def doing(self, what: str | None) -> None:
        """Something that no phase is named for. From any thread."""

    def fetched(self, done: int, total: int) -> None:
        """Bytes of the model that were downloaded, and of all. From any thread."""

    def read(self, done: int, total: int) -> None:
        """Bytes of its weights that were read ahead, and of all. From any thread."""


class EngineLost(Exception):
    """A process of the engine ended on its own; `str()` is which one and how."""


class Launched(Protocol):
    """The result of a start: an engine, or this process's part in one."""

    lost: asyncio.Future[str]
    """Done when the engine's processes are gone; its result is the reason."""
    phase_when_up: Phase
    """The server's phase once this is up: warming, or following if another node serves."""

    @property
    def serves(self) -> Engine | None:
        """The engine that this process can use; None: the process only keeps the engine alive."""

    def all_warm(self) -> None:
        """Every serving process of this server is ready."""

    async def close(self) -> None:
        """End the engine's processes, letting them release their device. Idempotent."""


class Engine(Launched, Protocol):
    """A loaded model. All methods belong to the event loop that built it."""

    info: EngineInfo

    @property
    def memory(self) -> Memory | None:
        """None: it keeps all."""

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        """Token ids of plain text, with or without the special tokens that the tokenizer adds.

        Safe to call from one thread beside the event loop's.
        """

    def decode(self, ids: Sequence[int], *, special: bool = True) -> str:
        """The text of token ids, with or without the special ones. As thread-safe as `encode`."""

    def grammar_vocabulary(self) -> Vocabulary | None:
        """To compile grammars for; None: the tokenizer has no form that grammars can use."""

    def infill(self, prefix: str, suffix: str) -> list[int]:
        """The prompt that makes the model fill the gap between two texts; if info.fills_middle."""

    def render(self, chat: ChatPrompt, grammar: Grammar | None) -> Rendered:
        """The conversation by the model's own chat template, ready for the assistant's answer, and
        how that answer is constrained and read.

        `grammar`: the request's. Raises InvalidRequest if the template refuses the conversation,
        UnsupportedParameter if grammar and tools do not go together. As thread-safe as `encode`.
        """

    def picture_tokens(self, sizes: Sequence[tuple[int, int]]) -> list[int] | None:
        """How many tokens pictures of these widths and heights are; None: it is not known before
        they are seen."""

    async def see(self, rendered: Rendered, pictures: Sequence[Decoded], *, param: str) -> Rendered:
        """The prompt with its pictures: their tokens in the place of the markers, and `inputs`.

        `pictures`: in the order of the request. `param`: the field that an error names. If
        info.takes_pictures. Raises ServeError.
        """

    def generate(self, question: Question, *, id: str, choices: int) -> AsyncGenerator[Chunk, None]:
        """Generate `choices` answers to one prompt, interleaved as they come.

        Closing the generator, or cancelling its consumer, aborts the request inside the engine.
        Raises ServeError if the engine refuses the request or ends it on its own.
        """

    async def embed(
        self, prompts: Sequence[list[int]], *, id: str, dimensions: int | None = None
    ) -> list[Embedding]:
        """Embed each prompt, in order; if info.embeds.

        Cancelling aborts the whole batch in the engine. Raises ServeError.
        """

    async def load_adapter(self, name: str, path: str) -> str:
        """Load the LoRA adapter at `path`, a folder or a name on the hub; if info.serves_adapters.

        Returns the id that a `Question` names it by. Requests go on meanwhile. Raises
        AdapterRefused, ServeError.
        """

    async def unload_adapter(self, id: str) -> None:
        """Let go of an adapter that no question will name any more; returns once it is gone.

        Raises ServeError.
        """

    async def loads(self) -> list[Load]:
        """The load of each replica; cheap."""

    def options(self) -> Json:
        """The options in force, without secrets."""

    async def flush_cache(self) -> bool:
        """Empty the prefix cache; False if requests are running."""

    async def profile(self, options: Json | None) -> None:
        """Start the engine's profiler with these options, or stop it with None."""

    def silent_s(self) -> float:
        """Seconds since the engine last sent a message or showed that it works on one; 0 while it
        has no requests."""

    async def warm_up(self) -> None:
        """Generate one token, or embed one text: "ready" means that the whole path works."""
