"""The exchange that main.rs plans, by PyPI's `websockets`. Prints what it was told as one line of JSON."""

import asyncio
import json
import os
import struct
import sys

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

PLAN = json.loads(os.environ["ETHERPLY_INTEROP"])


def client():
    # It offers compression, as it does by default, and another subprotocol first.
    return connect(PLAN["url"], subprotocols=["other", "etherply.v1"], compression="deflate")


async def frame(socket, kind):
    """The next frame, which has to be of this kind."""
    got = await socket.recv()
    (number,) = struct.unpack_from("<H", got, PLAN["kind_at"])
    if number != PLAN["kinds"][kind]:
        sys.exit(f"kind {number} instead of {kind}")
    return got


async def join(socket):
    """Says hello and opens the document; the stream's number."""
    await socket.send(bytes.fromhex(PLAN["hello"]))
    await frame(socket, "welcome")
    await socket.send(bytes.fromhex(PLAN["open"]))
    opened = await frame(socket, "opened")
    return struct.unpack_from("<I", opened, PLAN["stream_at"])[0]


async def exchange():
    async with client() as writer, client() as reader, client() as texter:
        stream = await join(writer)
        await join(reader)
        await join(texter)
        push = bytearray.fromhex(PLAN["push"])
        struct.pack_into("<I", push, PLAN["stream_at"], stream)
        # In three fragments.
        await writer.send([bytes(push[:30]), bytes(push[30:31]), bytes(push[31:])])
        await frame(writer, "ack")
        changes = await frame(reader, "changes")
        await (await writer.ping(b"between"))
        said = {
            "subprotocol": writer.subprotocol,
            "extensions": ",".join(extension.name for extension in writer.protocol.extensions),
            "pong": "between",
            "delivered": changes.hex(),
        }
        await writer.close(4321, "so long")
        said["writer_close"] = writer.protocol.close_rcvd.code
        await reader.close()
        said["reader_close"] = reader.protocol.close_rcvd.code
        await frame(texter, "changes")
        await texter.send("text")
        await frame(texter, "error")
        try:
            await texter.recv()
        except ConnectionClosed as closed:
            said["text_close"] = closed.rcvd.code
            said["text_reason"] = closed.rcvd.reason
        print(json.dumps(said))


asyncio.run(asyncio.wait_for(exchange(), PLAN["patience_ms"] / 1000))
