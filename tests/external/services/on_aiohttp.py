"""A service on aiohttp. Prints its URL. It believes no forwarded header by itself, and tells what came."""

import asyncio
import socket

from aiohttp import WSMsgType, web

turn = asyncio.Semaphore(0)


def seen(request):
    return {
        "scheme": request.headers.get("X-Forwarded-Proto", request.scheme),
        "client": request.headers.get("X-Forwarded-For", request.remote),
        "host": request.host,
    }


async def who(request):
    return web.json_response(seen(request))


async def length(request):
    return web.json_response({"length": sum([len(part) async for part in request.content.iter_chunked(65536)])})


async def next_event(request):
    turn.release()
    return web.json_response({})


async def events(request):
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    for tick in range(5):
        await response.write(f"data: {tick}\n\n".encode())
        await turn.acquire()
    return response


async def live(request):
    ws = web.WebSocketResponse(protocols=["chat"], heartbeat=0.2)
    await ws.prepare(request)
    await ws.send_json(seen(request))
    async for message in ws:
        if message.data == "close":
            await ws.close(code=4001, message=b"as you wish")
        elif message.type == WSMsgType.TEXT:
            await ws.send_str(message.data)
        elif message.type == WSMsgType.BINARY:
            await ws.send_bytes(message.data)
    return ws


app = web.Application()
app.add_routes([web.get("/who", who), web.put("/length", length), web.get("/live", live)])
app.add_routes([web.get("/events", events), web.get("/next", next_event)])
listener = socket.create_server(("127.0.0.1", 0))
print(f"listening on ws://127.0.0.1:{listener.getsockname()[1]}", flush=True)
web.run_app(app, sock=listener, print=None, access_log=None)
