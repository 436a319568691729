// A `ws` client whose messages and end can be awaited.
import { WebSocket } from 'ws';
import { within } from './wait.mjs';

/** Opens a session; rejects with `{ status, headers, body }` in the error when the upgrade is refused. */
export function connect(url, { protocols = [], ...options } = {}) {
  const ws = new WebSocket(url, protocols, { rejectUnauthorized: false, ...options });
  const inbox = [];
  const readers = [];
  ws.on('message', (data, isBinary) => {
    const message = isBinary ? data : data.toString();
    const reader = readers.shift();
    if (reader) reader(message);
    else inbox.push(message);
  });
  const client = {
    ws,
    frames: [],
    send: (data, options) => ws.send(data, options ?? {}),
    /** The next message, whether it came already or not. */
    next: (what = 'message') =>
      within(
        new Promise((resolve) => (inbox.length ? resolve(inbox.shift()) : readers.push(resolve))),
        what,
      ),
    closed: new Promise((resolve) => ws.on('close', (code, reason) => resolve({ code, reason: reason.toString() }))),
    end: (what = 'close') => within(client.closed, what),
    event: (name) => within(new Promise((resolve) => ws.once(name, resolve)), name),
    async close(code = 1000, reason = '') {
      ws.close(code, reason);
      return client.end();
    },
  };
  const open = new Promise((resolve, reject) => {
    ws.on('upgrade', (response) => (client.answer = response));
    ws.on('open', () => resolve(client));
    ws.on('error', reject);
    ws.on('unexpected-response', (request, response) => {
      let body = '';
      response.setEncoding('utf8').on('data', (text) => (body += text));
      response.on('error', reject);
      response.on('end', () => {
        const { statusCode: status, headers } = response;
        reject(Object.assign(new Error(`refused with ${status}`), { status, headers, body }));
      });
    });
  });
  return within(open, `session at ${url}`);
}

/** How the gateway refuses: the error of `connect`, or a failure when the session opened. */
export async function refusal(url, options) {
  let client;
  try {
    client = await connect(url, options);
  } catch (error) {
    if (error.status === undefined) throw error;
    return error;
  }
  client.ws.terminate();
  throw new Error(`${url} was not refused`);
}
