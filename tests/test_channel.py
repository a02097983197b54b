"""Two processes of one server talk over a channel: typed messages, in order, until one is gone."""

from __future__ import annotations

import asyncio
import socket

import msgspec

from app.channel import Channel
from tests.support.serving import HANGS_S, eventually


class Ping(msgspec.Struct, tag=True):
    no: int


class Text(msgspec.Struct, tag=True):
    text: str


Message = Ping | Text


async def _pair() -> tuple[Channel[Message, Message], list[Message], asyncio.Event, socket.socket]:
    ours, theirs = socket.socketpair()
    messages: list[Message] = []
    closed = asyncio.Event()
    channel: Channel[Message, Message] = Channel(
        ours, msgspec.json.Decoder(Message), on_message=messages.append, on_closed=closed.set
    )
    await channel.open()
    return channel, messages, closed, theirs


async def test_messages_arrive_typed_and_in_order() -> None:
    channel, messages, closed, theirs = await _pair()
    other: Channel[Message, Message] = Channel(
        theirs,
        msgspec.json.Decoder(Message),
        on_message=lambda message: other.send(message),
        on_closed=lambda: None,
    )
    await other.open()
    sent = [Ping(1), Text("a\nb"), Ping(2)]
    for message in sent:
        channel.send(message)
    await eventually(lambda: messages == sent)
    assert not closed.is_set()
    await channel.close()
    await other.close()


async def test_the_end_of_the_other_process_is_noticed_and_sending_goes_on_harmlessly() -> None:
    channel, _, closed, theirs = await _pair()
    theirs.close()
    async with asyncio.timeout(HANGS_S):
        await closed.wait()
    channel.send(Ping(1))
    await channel.close()
