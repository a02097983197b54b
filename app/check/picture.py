"""A picture of a few curves, both axes logarithmic, as SVG."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple
from xml.sax.saxutils import escape

_WIDTH, _HEIGHT = 720, 420
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 130, 40, 48
_COLOURS = ("#0b6e99", "#d9730d", "#448361", "#9065b0", "#c14c8a", "#787774")


class Curve(NamedTuple):
    name: str
    x: Sequence[float]
    y: Sequence[float]
    """All above 0."""


def svg(title: str, x_name: str, y_name: str, curves: Sequence[Curve]) -> str:
    """`curves`: at least one, of at least one point."""
    across = _Axis([x for curve in curves for x in curve.x], _LEFT, _WIDTH - _RIGHT)
    up = _Axis([y for curve in curves for y in curve.y], _HEIGHT - _BOTTOM, _TOP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        'font-family="sans-serif" font-size="12" fill="#37352f">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#ffffff"/>',
        f'<text x="{_LEFT}" y="22" font-size="14">{escape(title)}</text>',
        *_grid(across, up, curves[0].x),
        f'<text x="{(_LEFT + _WIDTH - _RIGHT) / 2:g}" y="{_HEIGHT - 10}" text-anchor="middle">'
        f"{escape(x_name)}</text>",
        f'<text x="14" y="{_TOP - 4}">{escape(y_name)}</text>',
    ]
    for no, curve in enumerate(curves):
        parts += _drawn(curve, _COLOURS[no % len(_COLOURS)], across, up, no)
    return "\n".join([*parts, "</svg>\n"])


class _Axis:
    """From a value to its place; logarithmic."""

    def __init__(self, values: Sequence[float], low: float, high: float) -> None:
        self.least, self.most = min(values), max(values)
        self._low, self._high = low, high

    def place(self, value: float) -> float:
        width = math.log(self.most / self.least)
        share = math.log(value / self.least) / width if width else 0.5
        return round(self._low + share * (self._high - self._low), 1)

    def ticks(self) -> list[float]:
        """1, 2 and 5 times the powers of ten, within."""
        first, last = math.floor(math.log10(self.least)), math.ceil(math.log10(self.most))
        all = [step * 10.0**power for power in range(first, last + 1) for step in (1, 2, 5)]
        return [tick for tick in all if self.least <= tick <= self.most]


def _grid(across: _Axis, up: _Axis, x: Sequence[float]) -> Iterator[str]:
    for tick in up.ticks():
        y = up.place(tick)
        yield f'<path d="M{_LEFT} {y}H{_WIDTH - _RIGHT}" stroke="#e3e2e0"/>'
        yield f'<text x="{_LEFT - 8}" y="{y + 4}" text-anchor="end">{tick:g}</text>'
    for value in x:
        place = across.place(value)
        yield f'<path d="M{place} {_TOP}V{_HEIGHT - _BOTTOM}" stroke="#f1f1ef"/>'
        yield (
            f'<text x="{place}" y="{_HEIGHT - _BOTTOM + 16}" text-anchor="middle">{value:g}</text>'
        )


def _drawn(curve: Curve, colour: str, across: _Axis, up: _Axis, no: int) -> Iterator[str]:
    points = [(across.place(x), up.place(y)) for x, y in zip(curve.x, curve.y, strict=True)]
    way = "L".join(f"{x} {y}" for x, y in points)
    yield f'<path d="M{way}" fill="none" stroke="{colour}" stroke-width="2"/>'
    for x, y in points:
        yield f'<circle cx="{x}" cy="{y}" r="3" fill="{colour}"/>'
    y = _TOP + 14 + 20 * no
    yield f'<path d="M{_WIDTH - _RIGHT + 14} {y}h16" stroke="{colour}" stroke-width="2"/>'
    yield f'<text x="{_WIDTH - _RIGHT + 36}" y="{y + 4}">{escape(curve.name)}</text>'
