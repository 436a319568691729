"""A Starlette service on uvicorn, which trusts the proxy on this machine. Prints its URL."""

import asyncio
import socket

import uvicorn
from starlette.applications import Starlette
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route, WebSocketRoute

turn = asyncio.Semaphore(0)


async def who(request):
    return JSONResponse({"scheme": request.url.scheme, "client": request.client.host, "host": request.headers["host"]})


async def length(request):
    return JSONResponse({"length": sum([len(part) async for part in request.stream()])})


async def next_event(request):
    turn.release()
    return JSONResponse({})


async def events(request):
    async def ticks():
        for tick in range(5):
            yield f"data: {tick}\n\n"
            await turn.acquire()

    return StreamingResponse(ticks(), media_type="text/event-stream")


async def live(ws):
    await ws.accept(subprotocol="chat" if "chat" in ws.scope["subprotocols"] else None)
    await ws.send_json({"scheme": ws.url.scheme, "client": ws.client.host})
    while (message := await ws.receive())["type"] == "websocket.receive":
        if message.get("text") == "close":
            return await ws.close(4001, "as you wish")
        await ws.send({**message, "type": "websocket.send"})


routes = [
    Route("/who", who),
    Route("/length", length, methods=["PUT"]),
    Route("/events", events),
    Route("/next", next_event),
    WebSocketRoute("/live", live),
]
listener = socket.create_server(("127.0.0.1", 0))
print(f"listening on ws://127.0.0.1:{listener.getsockname()[1]}", flush=True)
config = uvicorn.Config(Starlette(routes=routes), log_level="warning", proxy_headers=True, forwarded_allow_ips="127.0.0.1")
uvicorn.Server(config).run([listener])
