// Socket.IO 4, its own server and client, through the gateway of docs/recipes/socket.io.md.
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { after, before, describe, test } from 'node:test';
import { io } from 'socket.io-client';
import { startRecipe } from '../support/front.mjs';
import { startSocketIo } from '../support/socketio.mjs';
import { until, within } from '../support/wait.mjs';

const SERVERS = 1;
const TRANSPORTS = {
  'polling only': ['polling'],
  'WebSocket only': ['websocket'],
  'polling that upgrades': ['polling', 'websocket'],
};

let servers;
let front;

before(async () => {
  servers = await Promise.all(Array.from({ length: SERVERS }, () => startSocketIo()));
  front = await startRecipe('socket.io', servers.map(({ url }) => url));
});

after(async () => {
  await front?.stop();
  for (const server of servers ?? []) await server.stop();
});

/** A client that has heard its welcome and speaks over the last of its transports. */
async function open(t, scheme, transports) {
  const socket = io(front.http('', scheme), {
    transports,
    ca: front.ca,
    forceNew: true,
    reconnectionDelay: 50,
    reconnectionDelayMax: 200,
  });
  t.after(() => socket.disconnect());
  [socket.welcome] = await next(socket, 'welcome');
  await until(() => socket.io.engine.transport.name === transports.at(-1), `transport ${transports.at(-1)}`);
  return socket;
}

const next = (socket, event) => within(once(socket, event), event);
const ask = (socket, ...args) => socket.timeout(20_000).emitWithAck(...args);

for (const scheme of ['ws', 'wss']) {
  for (const [name, transports] of Object.entries(TRANSPORTS)) {
    describe(`${name} over ${scheme}`, () => {
      test('acknowledgements, text and objects', async (t) => {
        const socket = await open(t, scheme, transports);
        for (const value of ['hello', 'ünïcödé 🌊', '', 7, null, { deep: [{ er: true }] }, 'x'.repeat(300_000)]) {
          assert.deepEqual(await ask(socket, 'echo', value), value);
        }
      });

      test('binary, alone and within an object', async (t) => {
        const socket = await open(t, scheme, transports);
        for (const length of [0, 1, 200_000]) {
          const bytes = randomBytes(length);
          assert.ok(bytes.equals(await ask(socket, 'echo', bytes)), `${length} bytes`);
          const { inside } = await ask(socket, 'echo', { inside: bytes, beside: 'text' });
          assert.ok(bytes.equals(inside), `${length} bytes in an object`);
        }
      });

      test('a room hears what is said in it, and nobody else does', async (t) => {
        const [ann, bob, eve] = await Promise.all([1, 2, 3].map(() => open(t, scheme, transports)));
        await Promise.all([ask(ann, 'join', name), ask(bob, 'join', name), ask(eve, 'join', 'elsewhere')]);
        const overheard = [];
        eve.on('said', (...words) => overheard.push(words));
        const heard = [ann, bob].map((socket) => next(socket, 'said'));
        ann.emit('say', name, 'hello', Buffer.from([1, 2, 3]));
        for (const words of await Promise.all(heard)) assert.deepEqual(words, ['hello', Buffer.from([1, 2, 3])]);
        await ask(eve, 'echo', 'what is on its way to eve is there now');
        assert.deepEqual(overheard, []);
      });

      test('events keep their order, also while the transport changes', async (t) => {
        const socket = io(front.http('', scheme), { transports, ca: front.ca, forceNew: true });
        t.after(() => socket.disconnect());
        const counted = [];
        socket.on('counted', (number) => counted.push(number));
        const numbers = Array.from({ length: 500 }, (_, i) => i);
        for (const number of numbers) {
          socket.emit('count', number);
          if (number % 50 === 0) await new Promise((resolve) => setImmediate(resolve));
        }
        await until(() => counted.length === numbers.length, 'all that was counted');
        assert.deepEqual(counted, numbers);
      });

      test('the server knows the scheme and the client', async (t) => {
        const { welcome } = await open(t, scheme, transports);
        if (welcome.proto !== undefined) assert.equal(welcome.proto, scheme === 'wss' ? 'https' : 'http');
        assert.match(welcome.address, /127\.0\.0\.1$/);
      });

      test('after a restart of the server the client is back by itself', async (t) => {
        const socket = await open(t, scheme, transports);
        const at = servers.findIndex(({ pid }) => pid === socket.welcome.server);
        const lost = next(socket, 'disconnect');
        await servers[at].stop('SIGKILL');
        await lost;
        const welcome = next(socket, 'welcome');
        servers[at] = await startSocketIo(new URL(servers[at].url).port);
        assert.equal((await welcome)[0].server, servers[at].pid);
        assert.equal(await ask(socket, 'echo', 'back'), 'back');
      });
    });
  }
}
