"""A service on Tornado, with `xheaders` as behind a proxy. Prints its URL."""

import asyncio

from tornado import httpserver, netutil, web, websocket

turn = asyncio.Semaphore(0)


def seen(request):
    return {"scheme": request.protocol, "client": request.remote_ip, "host": request.host}


class Who(web.RequestHandler):
    def get(self):
        self.write(seen(self.request))


@web.stream_request_body
class Length(web.RequestHandler):
    def prepare(self):
        self.length = 0

    def data_received(self, part):
        self.length += len(part)

    def put(self):
        self.write({"length": self.length})


class Events(web.RequestHandler):
    async def get(self):
        self.set_header("Content-Type", "text/event-stream")
        for tick in range(5):
            self.write(f"data: {tick}\n\n")
            await self.flush()
            await turn.acquire()


class NextEvent(web.RequestHandler):
    def get(self):
        turn.release()
        self.write({})


class Live(websocket.WebSocketHandler):
    def select_subprotocol(self, offered):
        return "chat" if "chat" in offered else None

    def get_compression_options(self):
        return {}

    def open(self):
        self.write_message(seen(self.request))

    def on_message(self, message):
        if message == "close":
            self.close(4001, "as you wish")
        else:
            self.write_message(message, binary=isinstance(message, bytes))


async def main():
    pages = [("/who", Who), ("/length", Length), ("/events", Events), ("/next", NextEvent), ("/live", Live)]
    app = web.Application(pages)
    server = httpserver.HTTPServer(app, xheaders=True)
    listeners = netutil.bind_sockets(0, "127.0.0.1")
    server.add_sockets(listeners)
    print(f"listening on ws://127.0.0.1:{listeners[0].getsockname()[1]}", flush=True)
    await asyncio.Event().wait()


asyncio.run(main())
