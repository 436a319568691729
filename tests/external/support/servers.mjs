// Servers that stand behind the gateway, all on npm `ws`. What one does is chosen by the path of the request, so that
// one process shows many behaviours.
import { createServer } from 'node:http';
import { once } from 'node:events';
import { WebSocketServer } from 'ws';
import { FrameReader } from './frames.mjs';

/** Starts a server on a free port; `options` go to `ws`. Gives its URL and what it saw. */
export async function startServer(options = {}) {
  // To a browser it is another site, with a page of its own.
  const http = createServer((_, response) => response.setHeader('Content-Type', 'text/html').end('<title>another site</title>'));
  const wss = new WebSocketServer({
    noServer: true,
    perMessageDeflate: true,
    maxFragments: 0,
    handleProtocols: (offered) => (offered.has('chat.v2') ? 'chat.v2' : false),
    ...options,
  });
  wss.on('headers', (headers) => headers.push('Set-Cookie: a=1; Path=/', 'Set-Cookie: b=2; HttpOnly', 'X-Served-By: ws'));
  /** One entry for each session: its request, its frames, its end. */
  const sessions = [];
  http.on('upgrade', (request, socket, head) => {
    const path = new URL(request.url, 'http://server').pathname;
    const refusal = path.match(/\/refuse\/(\d+)/);
    if (refusal) return refuse(socket, Number(refusal[1]));
    wss.handleUpgrade(request, socket, head, (ws) => {
      const session = { path, headers: request.headers, frames: [], closed: null };
      const reader = new FrameReader();
      session.frames = reader.frames;
      reader.push(head);
      socket.on('data', (bytes) => reader.push(bytes));
      ws.on('error', () => {});
      ws.on('close', (code, reason) => (session.closed = { code, reason: reason.toString() }));
      ws.on('ping', () => (session.pings = (session.pings ?? 0) + 1));
      sessions.push(session);
      serve(wss, ws, path);
    });
  });
  http.listen(0, '127.0.0.1');
  await once(http, 'listening');
  const { port } = http.address();
  return {
    port,
    url: `ws://127.0.0.1:${port}`,
    sessions,
    /** The newest session of `path`. */
    session: (path) => sessions.findLast((session) => session.path === path),
    async stop() {
      for (const ws of wss.clients) ws.terminate();
      http.closeAllConnections();
      http.close();
      await once(http, 'close');
    },
  };
}

function refuse(socket, status) {
  const body = `refused with ${status}`;
  socket.on('error', () => {});
  socket.end(
    `HTTP/1.1 ${status} Refused\r\nConnection: close\r\nX-Reason: test\r\n` +
      `Content-Type: text/plain\r\nContent-Length: ${body.length}\r\n\r\n${body}`,
  );
}

function serve(wss, ws, path) {
  const echo = () => ws.on('message', (data, isBinary) => ws.send(data, { binary: isBinary }));
  switch (path.split('/').pop()) {
    case 'greets': // speaks first, in the same segment as its 101 if the kernel lets it
      ws.send('hello from the server');
      return echo();
    case 'closes':
      return ws.on('message', () => ws.close(4002, 'the server says so'));
    case 'dies':
      return ws.on('message', () => ws.terminate());
    case 'pings':
      ws.on('pong', (data) => ws.send(`pong ${data}`));
      return ws.on('message', (data) => ws.ping(data));
    case 'room':
      return ws.on('message', (data, isBinary) => {
        for (const other of wss.clients) {
          if (other !== ws && other.readyState === other.OPEN) other.send(data, { binary: isBinary });
        }
      });
    default:
      return echo();
  }
}
