// Express 4 with `ws` on one port, as their documentation has it. Behind a proxy on this machine.
import { once } from 'node:events';
import { createServer } from 'node:http';
import express from 'express';
import { WebSocketServer } from 'ws';

const PAGE = `<!doctype html><title>board</title><link rel=stylesheet href=/static/style.css>
<p id=said></p><script type=module src=/static/page.mjs></script>`;
const SCRIPT = `
  const who = await (await fetch('/api/who')).json();
  const ws = new WebSocket(location.origin.replace('http', 'ws') + '/live');
  ws.onopen = () => ws.send('hello from ' + who.protocol);
  ws.onmessage = ({ data }) => (document.querySelector('#said').textContent += data + ';');`;

/** Starts it on a free port. */
export async function startExpress() {
  const app = express();
  app.set('trust proxy', 'loopback');
  app.set('env', 'test'); // an error that is meant is not logged
  app.use((request, response, next) => {
    response.cookie('visitor', '7', { httpOnly: true, secure: request.secure });
    next();
  });
  app.get('/', (_, response) => response.send(PAGE));
  app.get('/static/style.css', (_, response) => response.type('css').send('#said { color: rgb(1, 2, 3) }'));
  app.get('/static/page.mjs', (_, response) => response.type('mjs').send(SCRIPT));
  app.get('/api/who', ({ protocol, secure, hostname, ip }, response) => response.json({ protocol, secure, hostname, ip }));
  app.post('/api/echo', express.json(), ({ body }, response) => response.status(201).json(body));
  app.put('/api/length', (request, response) => {
    let length = 0;
    request.on('data', (bytes) => (length += bytes.length)).on('end', () => response.json({ length }));
  });
  app.get('/api/moved', (_, response) => response.redirect('/'));
  app.get('/api/fails', () => {
    throw Object.assign(new Error('out of tea'), { status: 418, expose: true });
  });
  const http = createServer(app);
  const wss = new WebSocketServer({ server: http, path: '/live' });
  wss.on('connection', (ws, request) => {
    ws.send(`cookie ${request.headers.cookie ?? 'none'}`);
    ws.on('message', (message) => wss.clients.forEach((client) => client.send(String(message))));
  });
  http.listen(0, '127.0.0.1');
  await once(http, 'listening');
  return {
    url: `ws://127.0.0.1:${http.address().port}`,
    stop() {
      wss.clients.forEach((client) => client.terminate());
      http.closeAllConnections();
      http.close();
    },
  };
}
