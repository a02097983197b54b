"""Draws docs/architecture.svg, the processes and what is in them, to standard output.

    python docs/architecture_svg.py > docs/architecture.svg        (part of `make docs`)

Boxes and arrows at fixed places, no dependency. Colours follow the reader's light or dark mode.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

WIDTH, HEIGHT = 1000, 640
LINE = 17
STYLE = """
  text { font: 13px system-ui, -apple-system, "Segoe UI", sans-serif; fill: #1f2328; }
  .title { font-weight: 600; }
  .small { font-size: 12px; fill: #59636e; }
  .box { fill: #ffffff; stroke: #8c959f; }
  .process { fill: #f6f8fa; stroke: #57606a; stroke-width: 1.5; }
  .optional { fill: #f6f8fa; stroke: #57606a; stroke-width: 1.5; stroke-dasharray: 6 4; }
  .ours { fill: #ddf4ff; stroke: #54aeff; }
  .arrow { fill: none; stroke: #57606a; stroke-width: 1.5; }
  .head { fill: #57606a; }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3; }
    .small { fill: #9198a1; }
    .box { fill: #0d1117; stroke: #656c76; }
    .process, .optional { fill: #151b23; stroke: #9198a1; }
    .ours { fill: #12273f; stroke: #4184e4; }
    .arrow { stroke: #9198a1; }
    .head { fill: #9198a1; }
  }
"""

Point = tuple[int, int]


def box(
    x: int, y: int, width: int, height: int, title: str, *lines: str, kind: str = "box"
) -> Iterator[str]:
    """A rounded box; its title, then lines of smaller text, from the top left."""
    yield f'<rect class="{kind}" x="{x}" y="{y}" width="{width}" height="{height}" rx="6"/>'
    yield f'<text class="title" x="{x + 12}" y="{y + 21}">{escape(title)}</text>'
    for no, line in enumerate(lines, start=1):
        yield from note(x + 12, y + 21 + no * LINE, line)


def note(x: int, y: int, text: str, anchor: str = "start") -> Iterator[str]:
    yield f'<text class="small" x="{x}" y="{y}" text-anchor="{anchor}">{escape(text)}</text>'


def arrow(*points: Point, both: bool = False) -> Iterator[str]:
    """A line through the points, with a head at its end, or at both ends."""
    path = "M" + " L".join(f"{x} {y}" for x, y in points)
    start = ' marker-start="url(#head)"' if both else ""
    yield f'<path class="arrow" d="{path}" marker-end="url(#head)"{start}/>'


WINGS: Sequence[tuple[str, str]] = (
    ("generation", "one request in, one stream of events out; limits, grammars on trial"),
    ("engine", "what is asked of an engine; sglang/ runs a model, scripted.py none"),
    ("reading", "the model's text -> thinking, text, calls of tools"),
    ("ground", "types, events, errors, settings, lifecycle, gate, channel, logs, metrics"),
)


def picture() -> Iterator[str]:
    """Boxes first: arrows are drawn over them."""
    yield from outside()
    yield from serving_process()
    yield from engine_processes()
    yield from owners()
    yield from arrows()


def outside() -> Iterator[str]:
    """The left column: where requests come from, and who sends them here."""
    yield from box(16, 16, 168, 56, "Google Cloud", "endpoint group")
    yield from box(16, 134, 168, 56, "Load balancer", "traffic, health checks")
    yield from box(16, 210, 168, 56, "Clients", "OpenAI SDKs, curl, ...")
    yield from box(16, 286, 168, 56, "RunPod", "jobs, stop signals")


def serving_process() -> Iterator[str]:
    """The middle: the wings of the program."""
    for shift in (12, 6, 0):  # there may be several
        yield from box(250 + shift, 134 - shift, 490, 408, "", kind="process")
    yield from box(250, 134, 490, 408, "Serving process", kind="process")
    yield from note(392, 155, "each wing imports only from those below it")
    yield from box(262, 168, 228, 52, "web", "HTTP: uvicorn, FastAPI", kind="ours")
    yield from box(500, 168, 228, 52, "runpod", "jobs of a serverless worker", kind="ours")
    yield from box(262, 230, 158, 52, "life", "start, wait, drain, end", kind="ours")
    yield from box(
        430, 230, 298, 52, "dialects", "bodies -> requests; events -> frames", kind="ours"
    )
    for no, (wing, story) in enumerate(WINGS):
        yield from box(262, 292 + no * 62, 466, 52, wing, story, kind="ours")


def engine_processes() -> Iterator[str]:
    """The right column: what a serving process starts for the model."""
    yield from box(808, 246, 176, 94, "Grammar process", *_GRAMMARS, kind="process")
    yield from box(808, 356, 176, 82, "Engine's process", kind="process")
    yield from box(820, 388, 152, 36, "scheduler, model")


_GRAMMARS = ("compiles a new schema", "on trial; is killed if", "that takes too long")
_SUPERVISES = ("with a network endpoint: attaches it, and", "removes it whatever ends the server")


def owners() -> Iterator[str]:
    """Processes that exist only with a network endpoint, or with several serving processes."""
    yield from box(250, 16, 300, 72, "Supervisor", *_SUPERVISES, kind="optional")
    parents = "with TOKENIZER_WORKERS above 1: has the port, the engine, the signals"
    yield from box(250, 576, 490, 56, "Parent", parents, kind="optional")


def arrows() -> Iterator[str]:
    """Requests and what comes back; then who starts, asks and ends whom."""
    yield from arrow((188, 162), (216, 162), (216, 184), (258, 184), both=True)
    yield from arrow((188, 238), (216, 238), (216, 204), (258, 204), both=True)
    yield from note(190, 256, "HTTP")
    yield from arrow((188, 314), (232, 314), (232, 112), (690, 112), (690, 164), both=True)
    yield from arrow((732, 312), (804, 312), both=True)
    yield from arrow((728, 370), (784, 370), (784, 402), (816, 402))
    yield from arrow((820, 414), (766, 414), (766, 390), (732, 390))
    yield from arrow((400, 90), (400, 130), both=True)
    yield from note(410, 104, "phases; signals")
    yield from arrow((250, 44), (188, 44))
    yield from arrow((100, 72), (100, 130))
    yield from arrow((495, 574), (495, 544), both=True)
    yield from note(505, 564, "phases; the end")


def svg() -> str:
    head = (
        '<marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
        'orient="auto-start-reverse"><path class="head" d="M0 0 L8 4 L0 8 z"/></marker>'
    )
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        'aria-label="Processes of the server and the wings of its program">',
        f"<style>{STYLE}</style>",
        f"<defs>{head}</defs>",
        *picture(),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(svg(), end="")
