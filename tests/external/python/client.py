"""Checks with the clients of Python `websockets`: `client.py URL CA_FILE`.

URL is where `server.py` is found, directly or through the gateway. Prints `ok NAME` or `not ok NAME` for each check,
with the reason on lines that begin with `# `.
"""

import asyncio
import json
import os
import ssl
import sys
import traceback

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect as connect_sync

URL, CA_FILE = sys.argv[1:]
TLS = ssl.create_default_context(cafile=CA_FILE) if URL.startswith("wss:") else None
CHECKS = []


def check(function):
    CHECKS.append(function)
    return function


def opened(path="echo", **options):
    return connect(f"{URL}/{path}", ssl=TLS, max_size=64 << 20, **options)


@check
async def text_binary_and_empty_messages_come_back():
    async with opened() as ws:
        for message in ("hello", "ünïcödé 🌊", "", b"\x00\xff", b"", os.urandom(300_000), "x" * 65536):
            await ws.send(message)
            assert await ws.recv() == message


@check
async def eight_mebibytes_come_back():
    async with opened(compression=None) as ws:
        message = os.urandom(8 << 20)
        await ws.send(message)
        assert await ws.recv() == message


@check
async def fragments_keep_their_boundaries_both_ways():
    async with opened("fragments", compression=None) as ws:
        lengths = [3, 1, 70_000, 125, 126, 40_000]
        await ws.send(["x" * length for length in lengths])
        at_server = json.loads(await ws.recv())
        assert [n for n in at_server if n] == lengths, at_server
        back = [len(part) async for part in ws.recv_streaming()]
        assert [n for n in back if n] == lengths, back


@check
async def a_ping_is_answered():
    async with opened() as ws:
        for payload in ("", "are you there", "x" * 125):
            await (await ws.ping(payload))


@check
async def a_ping_of_the_server_is_answered():
    async with opened("pings") as ws:
        await ws.send("42")
        assert await ws.recv() == "pong 42"


@check
async def the_servers_close_reaches_the_client():
    async with opened("closes") as ws:
        await ws.send("please")
        try:
            await ws.recv()
            raise AssertionError("not closed")
        except ConnectionClosed as closed:
            assert (closed.rcvd.code, closed.rcvd.reason) == (4003, "python says so"), closed


@check
async def the_clients_close_reaches_the_server():
    ws = await opened("last_close")
    await ws.close(3002, "thank you ✓")
    assert (ws.close_code, ws.close_reason) == (3002, "thank you ✓")
    for _ in range(100):
        async with opened("reported") as reporter:
            if (seen := json.loads(await reporter.recv())) is not None:
                assert seen == [3002, "thank you ✓"], seen
                return
        await asyncio.sleep(0.02)
    raise AssertionError("the server saw no close")


@check
async def the_subprotocol_is_negotiated():
    async with opened("seen", subprotocols=["chat.v1", "chat.v2"]) as ws:
        assert ws.subprotocol == "chat.v2"
        assert json.loads(await ws.recv())["sec-websocket-protocol"] == "chat.v1, chat.v2"


@check
async def permessage_deflate_is_negotiated():
    async with opened() as ws:
        assert [type(extension).__name__ for extension in ws.protocol.extensions] == ["PerMessageDeflate"]
        for message in ("compress me " * 10_000, "", "x"):
            await ws.send(message)
            assert await ws.recv() == message


@check
async def what_the_server_says_first_arrives():
    async with opened("greets") as ws:
        assert await ws.recv() == "hello from python"


@check
async def cookies_of_the_101_arrive():
    async with opened() as ws:
        assert ws.response.headers.get_all("Set-Cookie") == ["a=1", "b=2"]


@check
async def a_refusal_arrives_with_its_headers_and_body():
    try:
        async with opened("refused"):
            raise AssertionError("not refused")
    except InvalidStatus as refused:
        assert refused.response.status_code == 403
        assert refused.response.headers["X-Reason"] == "test"
        assert refused.response.body == b"not for you\n"


@check
async def a_hundred_clients_keep_their_order():
    async def one(who):
        async with opened() as ws:
            for i in range(20):
                await ws.send(f"{who}:{i}")
            for i in range(20):
                assert await ws.recv() == f"{who}:{i}"

    await asyncio.gather(*(one(who) for who in range(100)))


@check
async def the_blocking_client_works_too():
    def talk():
        with connect_sync(f"{URL}/echo", ssl=TLS) as ws:
            for message in ("hello", b"\x00\x01", "", "x" * 70_000):
                ws.send(message)
                assert ws.recv(timeout=10) == message
            assert ws.ping().wait(10)

    await asyncio.to_thread(talk)


async def main():
    failed = 0
    for function in CHECKS:
        name = function.__name__.replace("_", " ")
        try:
            await asyncio.wait_for(function(), 30)
            print(f"ok {name}", flush=True)
        except Exception:
            failed += 1
            print(f"not ok {name}")
            for line in traceback.format_exc().splitlines():
                print(f"# {line}")
            sys.stdout.flush()
    print(f"done {len(CHECKS)}", flush=True)
    return failed


sys.exit(1 if asyncio.run(main()) else 0)
