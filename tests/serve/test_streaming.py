"""Streams end in every way that a client can end them."""

import asyncio

import pytest

from grainline.serve.streaming import ClientLeft, EventStream, event, unless_left


async def gone():
    return {"type": "http.disconnect"}


def test_a_stream_whose_client_left_before_its_first_event_is_ended():
    ended, told = [], []

    async def events():
        told.append(1)
        yield b""

    async def stuck(message):
        await asyncio.Event().wait()

    asyncio.run(EventStream(events(), on_end=lambda: ended.append(1))({"type": "http"}, gone, stuck))
    assert ended == [1]
    assert told == []


def test_a_line_that_breaks_while_sending_ends_the_stream():
    ended = []

    async def events():
        yield b"x"

    async def broken(message):
        raise OSError("broken pipe")

    async def silent():
        await asyncio.Event().wait()

    asyncio.run(EventStream(events(), on_end=lambda: ended.append(1))({"type": "http"}, silent, broken))
    assert ended == [1]


def test_work_is_cancelled_when_the_client_leaves():
    cancelled = []

    async def work():
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(1)
            raise

    with pytest.raises(ClientLeft):
        asyncio.run(unless_left(gone, work()))
    assert cancelled == [1]


def test_an_event_is_one_line_of_json():
    assert event({"text": "é\n"}) == 'data: {"text":"é\\n"}\n\n'.encode()
