"""Pictures are decoded in processes that may be killed, and what happens there stays there."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator

import psutil
import pytest
from PIL import Image

from app.errors import InvalidRequest, Unavailable
from app.media import decoder as decoding
from app.media.decoder import Decoder
from tests.support.pictures import BOUNDS, NOISE, RED, encoded
from tests.support.serving import eventually

PARAM = "messages[0].content[1].image_url.url"


@pytest.fixture
async def decoder() -> AsyncIterator[Decoder]:
    made = Decoder(BOUNDS, processes=2)
    yield made
    await made.close()


async def test_a_picture_is_measured_and_decoded(decoder: Decoder) -> None:
    data = encoded(Image.new("RGB", (400, 300), RED))
    assert await decoder.measure(data, param=PARAM) == (400, 300)
    whole = await decoder.decode(data, longest=None, param=PARAM)
    assert (whole.width, whole.height) == (400, 300)
    assert whole.pixels == bytes(RED) * 400 * 300
    small = await decoder.decode(data, longest=100, param=PARAM)
    assert (small.width, small.height) == (100, 75)
    assert whole.identity() != small.identity()


async def test_several_at_once_are_each_their_own(decoder: Decoder) -> None:
    sizes = [(10 + no, 10) for no in range(20)]
    pictures = [encoded(Image.new("RGB", size, RED)) for size in sizes]
    seen = await asyncio.gather(
        *[decoder.decode(each, longest=None, param=PARAM) for each in pictures]
    )
    assert [(each.width, each.height) for each in seen] == sizes
    assert all(os.fstat(slot.encoded).st_size == 0 for slot in decoder._slots)
    assert all(os.fstat(slot.pixels).st_size == 0 for slot in decoder._slots)


async def test_one_that_is_refused_names_its_field_and_the_reason(decoder: Decoder) -> None:
    for call in (decoder.measure(b"x", param=PARAM), decoder.decode(b"", longest=9, param=PARAM)):
        with pytest.raises(InvalidRequest) as refused:
            await call
        assert refused.value.param == PARAM
        assert refused.value.code == "invalid_image_format"
        assert refused.value.message == (
            f"Invalid value for '{PARAM}': the picture must be one of PNG, JPEG, WEBP, GIF."
        )


async def test_one_that_takes_too_long_is_given_up(
    decoder: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = encoded(NOISE.resize((4000, 4000)), "WEBP")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoding, "_CPU_S_PER_PIXEL", 0.0)
        with pytest.raises(InvalidRequest, match="takes too long"):
            await decoder.decode(large, longest=None, param=PARAM)
    assert (await decoder.decode(encoded(NOISE), longest=None, param=PARAM)).width == 300


async def test_a_process_that_ends_costs_one_request(decoder: Decoder) -> None:
    picture = encoded(NOISE)
    await decoder.decode(picture, longest=None, param=PARAM)
    (pid,) = [slot.process.pid for slot in decoder._slots if slot.process.pid is not None]
    large = asyncio.create_task(
        decoder.decode(encoded(NOISE.resize((4000, 4000)), "WEBP"), longest=None, param=PARAM)
    )
    await eventually(lambda: bool(psutil.Process(pid).children()))
    (child,) = psutil.Process(pid).children()
    child.suspend()  # it would answer all the same
    (its,) = [os.dup(slot.pixels) for slot in decoder._slots if slot.process.pid == pid]
    os.kill(pid, signal.SIGKILL)
    child.kill()
    with pytest.raises(Unavailable):
        await large
    # Another file: what is left of that process cannot write into the next picture.
    assert len(decoder._slots) == 2
    assert os.fstat(its).st_ino not in {os.fstat(slot.pixels).st_ino for slot in decoder._slots}
    os.close(its)
    for _ in range(3):
        assert (await decoder.decode(picture, longest=None, param=PARAM)).width == 300


async def test_a_decoder_that_crashes_costs_its_picture(decoder: Decoder) -> None:
    large = asyncio.create_task(
        decoder.decode(encoded(NOISE.resize((4000, 4000)), "WEBP"), longest=None, param=PARAM)
    )

    def children() -> list[psutil.Process]:
        pids = [slot.process.pid for slot in decoder._slots if slot.process.pid is not None]
        return [child for pid in pids for child in psutil.Process(pid).children()]

    await eventually(lambda: bool(children()))
    os.kill(children()[0].pid, signal.SIGSEGV)
    with pytest.raises(InvalidRequest, match="cannot be decoded"):
        await large


async def test_a_client_that_leaves_takes_its_picture_along(decoder: Decoder) -> None:
    large = encoded(NOISE.resize((4000, 4000)), "WEBP")
    pids = set()
    for _ in range(3):
        pids |= {slot.process.pid for slot in decoder._slots if slot.process.pid is not None}
        leaving = [
            asyncio.create_task(decoder.decode(large, longest=None, param=PARAM)) for _ in range(4)
        ]
        await asyncio.sleep(0.02)  # whichever step each is in by then
        for each in leaving:
            each.cancel()
        await asyncio.gather(*leaving, return_exceptions=True)
        small = encoded(Image.new("RGB", (40, 30), RED))
        async with asyncio.timeout(30):
            seen = await decoder.decode(small, longest=None, param=PARAM)
        assert seen.pixels == bytes(RED) * 40 * 30
    # What has begun is done: to start a process anew would take longer.
    assert {slot.process.pid for slot in decoder._slots if slot.process.pid is not None} >= pids


async def test_the_processes_know_no_secret(
    decoder: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf")
    await decoder.measure(encoded(NOISE), param=PARAM)
    (pid,) = [slot.process.pid for slot in decoder._slots if slot.process.pid is not None]
    assert "HF_TOKEN" not in psutil.Process(pid).environ()
