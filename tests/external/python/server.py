"""A server on Python `websockets`, to stand behind the gateway. Prints its URL, then serves until it is ended.

What a session does is chosen by the last part of its path.
"""

import asyncio
import http
import json

from websockets.asyncio.server import serve


async def echo(ws):
    async for message in ws:
        await ws.send(message)


async def fragments(ws):
    """Answers each message with the lengths of the fragments it came in, and then in fragments."""
    while True:
        lengths = [len(part) async for part in ws.recv_streaming()]
        await ws.send(json.dumps(lengths))
        await ws.send(["x" * length for length in lengths])


async def closes(ws):
    await ws.recv()
    await ws.close(4003, "python says so")


async def greets(ws):
    await ws.send("hello from python")
    await echo(ws)


async def pings(ws):
    """Pings the client when asked to, and tells it that the answer came."""
    async for message in ws:
        answered = await ws.ping(message)
        await asyncio.wait_for(answered, 10)
        await ws.send(f"pong {message}")


async def seen(ws):
    """Sends what the opening handshake looked like from here."""
    await ws.send(json.dumps({name.lower(): value for name, value in ws.request.headers.raw_items()}))
    await ws.wait_closed()


async def last_close(ws):
    """Waits for the end; `reported` tells the next one how it was."""
    await ws.wait_closed()
    last_close.seen = [ws.close_code, ws.close_reason]


async def reported(ws):
    await ws.send(json.dumps(getattr(last_close, "seen", None)))
    await ws.wait_closed()


SESSIONS = {f.__name__: f for f in (fragments, closes, greets, pings, seen, last_close, reported)}


async def session(ws):
    await SESSIONS.get(ws.request.path.rsplit("/", 1)[-1], echo)(ws)


def refuse(ws, request):
    if request.path.endswith("/refused"):
        response = ws.respond(http.HTTPStatus.FORBIDDEN, "not for you\n")
        response.headers["X-Reason"] = "test"
        return response


def cookies(ws, request, response):
    response.headers["Set-Cookie"] = "a=1"
    response.headers["Set-Cookie"] = "b=2"


async def main():
    server = serve(
        session,
        "127.0.0.1",
        0,
        select_subprotocol=lambda ws, offered: "chat.v2" if "chat.v2" in offered else None,
        process_request=refuse,
        process_response=cookies,
        max_size=64 << 20,
    )
    async with server as running:
        port = running.sockets[0].getsockname()[1]
        print(f"listening on ws://127.0.0.1:{port}", flush=True)
        await running.serve_forever()


asyncio.run(main())
