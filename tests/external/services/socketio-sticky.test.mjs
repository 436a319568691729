// Three Socket.IO servers behind the gateway of docs/recipes/socket.io.md: every session stays with its server, whether
// its client keeps cookies or not. Without stickiness they do not: so this proves something.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { after, before, describe, test } from 'node:test';
import { io } from 'socket.io-client';
import { direct, startRecipe } from '../support/front.mjs';
import { startSocketIo } from '../support/socketio.mjs';
import { until, within } from '../support/wait.mjs';

const SERVERS = 3;
const CLIENTS = 9;
const TRANSPORTS = {
  'polling only': ['polling'],
  'WebSocket only': ['websocket'],
  'polling that upgrades': ['polling', 'websocket'],
};
/** By what sessions stay, and whether the clients keep cookies. */
const KEPT = {
  'by sid, cookies refused': { sticky: '{ socket_io = true }', cookies: false },
  'by sid, cookies kept': { sticky: '{ socket_io = true, cookie = {} }', cookies: true },
  'by cookie alone': { sticky: '{ cookie = {} }', cookies: true },
};

let servers;
const fronts = {};

/** The recipe for several servers, with this stickiness; `balance` shows at once who is not led anywhere. */
function startSticky(sticky) {
  const edit = (text) =>
    text.replace(/^sticky = .*/m, `sticky = ${sticky}`).replace(/^balance = .*/m, 'balance = "round-robin"');
  return startRecipe('socket.io', servers.map(({ url }) => url), { index: 1, edit });
}

function connect(t, front, scheme, transports, cookies, more = {}) {
  const socket = io(front.http('', scheme), {
    transports,
    ca: front.ca,
    forceNew: true,
    withCredentials: cookies,
    reconnectionDelay: 50,
    reconnectionDelayMax: 200,
    ...more,
  });
  t.after(() => socket.disconnect());
  return socket;
}

const next = (socket, event) => within(once(socket, event), event);
const echo = (socket, value) => socket.timeout(20_000).emitWithAck('echo', value);

describe('three servers', { skip: direct && 'a blind pipe has one server' }, () => {
  before(async () => {
    servers = await Promise.all(Array.from({ length: SERVERS }, () => startSocketIo()));
    for (const { sticky } of Object.values(KEPT)) fronts[sticky] = await startSticky(sticky);
    fronts.none = await startSticky('{}');
    fronts.recipe = await startRecipe('socket.io', servers.map(({ url }) => url), { index: 1 });
  });

  after(async () => {
    for (const front of Object.values(fronts)) await front.stop();
    for (const server of servers ?? []) await server.stop();
  });

  for (const scheme of ['ws', 'wss']) {
    for (const [how, { sticky, cookies }] of Object.entries(KEPT)) {
      for (const [name, transports] of Object.entries(TRANSPORTS)) {
        test(`${name} over ${scheme}, ${how}: sessions stay, and all servers have some`, async (t) => {
          const met = new Set();
          await Promise.all(
            Array.from({ length: CLIENTS }, async () => {
              // One that lands elsewhere is refused, and would come back as another session.
              const socket = connect(t, fronts[sticky], scheme, transports, cookies, { reconnection: false });
              const [welcome] = await next(socket, 'welcome');
              met.add(welcome.server);
              await until(() => socket.io.engine.transport.name === transports.at(-1), `transport ${transports.at(-1)}`);
              const { id } = socket;
              for (let turn = 0; turn < 10; turn++) assert.equal(await echo(socket, turn), turn);
              assert.equal(socket.id, id, 'it is the same session');
              assert.ok(socket.connected);
            }),
          );
          assert.deepEqual([...met].sort(), servers.map(({ pid }) => pid).sort());
        });
      }
    }

    for (const [name, transports] of Object.entries(TRANSPORTS)) {
      const polls = transports.includes('polling');
      test(`${name} over ${scheme}, without stickiness: ${polls ? 'sessions are lost' : 'nothing is missing'}`, async (t) => {
        const ends = await Promise.all(
          Array.from({ length: CLIENTS }, async () => {
            const socket = connect(t, fronts.none, scheme, transports, true, { reconnection: false });
            const lost = Promise.race([next(socket, 'connect_error'), next(socket, 'disconnect')]).then(() => 'lost');
            lost.catch(() => {}); // waited for no more
            const works = async () => {
              await next(socket, 'welcome');
              await until(() => socket.io.engine.transport.name === transports.at(-1), 'the last transport');
              for (let turn = 0; turn < 10; turn++) await echo(socket, turn);
              return 'works';
            };
            return Promise.race([lost, works()]).catch(() => 'lost');
          }),
        );
        const lost = ends.filter((end) => end === 'lost').length;
        if (polls) assert.ok(lost > CLIENTS / 2, `${ends}`);
        else assert.equal(lost, 0, `${ends}`);
      });
    }

    test(`the recipe as it stands, over ${scheme}`, async (t) => {
      const sockets = Array.from({ length: CLIENTS }, () =>
        connect(t, fronts.recipe, scheme, ['polling', 'websocket'], false, { reconnection: false }),
      );
      for (const socket of sockets) {
        if (!socket.connected) await next(socket, 'connect');
        assert.equal(await echo(socket, 'hello'), 'hello');
      }
    });

    for (const [how, { sticky, cookies }] of Object.entries(KEPT)) {
      test(`polling over ${scheme}, ${how}: when its server dies a client is served by another`, async (t) => {
        const socket = connect(t, fronts[sticky], scheme, ['polling'], cookies);
        const [first] = await next(socket, 'welcome');
        const at = servers.findIndex(({ pid }) => pid === first.server);
        const again = next(socket, 'welcome');
        await servers[at].stop('SIGKILL');
        const [second] = await again;
        assert.notEqual(second.server, first.server);
        for (let turn = 0; turn < 10; turn++) assert.equal(await echo(socket, turn), turn);
        servers[at] = await startSocketIo(new URL(servers[at].url).port);
      });
    }
  }
});
