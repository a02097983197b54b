"""The load client of bench.layer notices every way in which a stream can be wrong."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from app.engine.stepped import numbered_words
from bench.layer.answers import Broken, check, check_beginning

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
TEXT = numbered_words(7, 4)


def frame(text: str, finish: str = "null", id: str = "a") -> bytes:
    choice = f'{{"index":0,"delta":{{"content":"{text}"}},"finish_reason":{finish}}}'
    return f'data: {{"id":"{id}","choices":[{choice}]}}\n\n'.encode()


FRAMES = [frame(""), *[frame(f"{word} ") for word in TEXT.split()], frame("", '"length"')]
DONE = b"data: [DONE]\n\n"


def answer(frames: list[bytes], *, head: bytes = HEAD, after: bytes = b"") -> bytes:
    chunks = b"".join([b"%x\r\n%b\r\n" % (len(each), each) for each in frames])
    return head + chunks + b"0\r\n\r\n" + after


def test_the_frames_of_a_right_answer_are_counted() -> None:
    raw = answer([*FRAMES, DONE])

    assert check(raw, TEXT, fully=True) == (len(FRAMES), len(raw))


def test_heartbeats_and_several_frames_in_a_chunk_are_accepted() -> None:
    beat = b": keep-alive\n"

    size = check(answer([beat, *FRAMES[:2], beat, b"".join(FRAMES[2:]) + DONE]), TEXT, fully=True)

    assert size.frames == len(FRAMES)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda: answer([*FRAMES[:2], *FRAMES[3:], DONE]),
        lambda: answer([*FRAMES[:2], FRAMES[1], *FRAMES[2:], DONE]),
        lambda: answer([FRAMES[0], FRAMES[2], FRAMES[1], *FRAMES[3:], DONE]),
        lambda: answer(FRAMES),
        lambda: answer([*FRAMES, DONE, DONE]),
        lambda: answer([*FRAMES, DONE, FRAMES[0]]),
        lambda: answer([*FRAMES, DONE], after=b"HTTP/1.1 200 OK\r\n"),
        lambda: answer([*FRAMES, DONE], head=HEAD.replace(b"200", b"503")),
        lambda: answer([*FRAMES, DONE], head=HEAD.replace(b"event-stream", b"plain")),
        lambda: answer([*FRAMES, b"oops\n\n", DONE]),
        lambda: answer([frame("", id="b"), *FRAMES[1:], DONE]),
        lambda: answer([*FRAMES[:-1], DONE]),
        lambda: answer([*FRAMES, DONE]).replace(b"\r\n0\r\n", b"\r\r0\r\n"),
    ],
    ids=[
        "a token is lost", "a token is repeated", "two tokens are swapped", "no end", "two ends",
        "a frame after the end", "bytes after the answer", "another status", "not a stream",
        "not a frame", "another answer's frame", "no finish reason", "a chunk of another size",
    ],
)  # fmt: skip
def test_a_wrong_answer_is_noticed(spoil: Callable[[], bytes]) -> None:
    with pytest.raises(Broken):
        check(spoil(), TEXT, fully=True)


def test_the_beginning_of_an_abandoned_answer_is_checked() -> None:
    check_beginning(answer(FRAMES[:3])[:-30], TEXT)

    with pytest.raises(Broken):
        check_beginning(answer([FRAMES[0], FRAMES[2]]), TEXT)
