// Mosquitto of the system, with npm `mqtt` (subprotocol mqtt), through the gateway of docs/recipes/mqtt.md.
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import mqtt from 'mqtt';
import { WebSocket } from 'ws';
import { startRecipe } from '../support/front.mjs';
import { freePort } from '../support/ports.mjs';
import { Process } from '../support/process.mjs';
import { within } from '../support/wait.mjs';

let directory;
let ports;
let broker;
let front;

async function startBroker() {
  const file = join(directory, 'mosquitto.conf');
  // With a WebSocket listener alone, 2.0.11 ends at once.
  const [plain, ws] = ports;
  writeFileSync(file, `listener ${plain} 127.0.0.1\nlistener ${ws} 127.0.0.1\nprotocol websockets\nallow_anonymous true\n`);
  // Debian keeps servers where users do not look.
  const env = { ...process.env, PATH: `${process.env.PATH}:/usr/sbin` };
  const broker = new Process('mosquitto', ['-c', file, '-v'], { env });
  await broker.line(/mosquitto version \S+ running/);
  return broker;
}

before(async () => {
  directory = mkdtempSync(join(tmpdir(), 'tidegate-mosquitto-'));
  ports = [await freePort(), await freePort()];
  broker = await startBroker();
  front = await startRecipe('mqtt', [`ws://127.0.0.1:${ports[1]}`]);
});

after(async () => {
  await front?.stop();
  await broker?.stop();
  if (directory) rmSync(directory, { recursive: true, force: true });
});

for (const scheme of ['ws', 'wss']) {
  for (const protocolVersion of [4, 5]) {
    const open = async (t, options) => {
      const sockets = [];
      const client = mqtt.connect(front.url('/mqtt', scheme), {
        protocolVersion,
        reconnectPeriod: 50,
        createWebsocket(url, protocols) {
          const socket = new WebSocket(url, protocols, { ca: front.ca });
          sockets.push(socket);
          return socket;
        },
        ...options,
      });
      Object.defineProperty(client, 'socket', { get: () => sockets.at(-1) });
      t.after(() => client.end(true));
      client.on('error', () => {});
      await within(once(client, 'connect'), 'connection to the broker');
      return client;
    };
    const next = async (client) => {
      const [topic, payload] = await within(once(client, 'message'), 'message');
      return [topic, payload];
    };

    describe(`MQTT ${protocolVersion === 5 ? '5' : '3.1.1'} over ${scheme}`, () => {
      test('the subprotocol is mqtt', async (t) => {
        const client = await open(t);
        assert.equal(client.socket.protocol, 'mqtt');
      });

      for (const qos of [0, 1, 2]) {
        test(`what is published with QoS ${qos} reaches who subscribed`, async (t) => {
          const [ann, bob] = [await open(t), await open(t)];
          await within(bob.subscribeAsync(`sea/${scheme}/+`, { qos }), 'subscription');
          // No larger: this broker takes 4 KiB from a WebSocket ten times a second, also without a gateway.
          for (const payload of [Buffer.from('hello 🌊'), Buffer.alloc(0), randomBytes(20_000)]) {
            const heard = next(bob);
            await within(ann.publishAsync(`sea/${scheme}/level`, payload, { qos }), 'publication');
            const [topic, came] = await heard;
            assert.equal(topic, `sea/${scheme}/level`);
            assert.ok(came.equals(payload), `${payload.length} bytes`);
          }
        });
      }

      test('a retained message waits for who comes later', async (t) => {
        const topic = `retained/${scheme}/${protocolVersion}`;
        await (await open(t)).publishAsync(topic, 'waits', { retain: true, qos: 1 });
        const late = await open(t);
        const heard = next(late);
        await within(late.subscribeAsync(topic), 'subscription');
        assert.equal(String((await heard)[1]), 'waits');
      });

      test('the last will of a client that breaks off is published', async (t) => {
        const topic = `will/${scheme}/${protocolVersion}`;
        const witness = await open(t);
        await within(witness.subscribeAsync(topic), 'subscription');
        const heard = next(witness);
        const dying = await open(t, { will: { topic, payload: 'gone', qos: 1 }, reconnectPeriod: 0 });
        dying.socket.terminate();
        assert.equal(String((await heard)[1]), 'gone');
      });

      test('after a restart of the broker the client is back, and subscribed', async (t) => {
        const client = await open(t);
        await within(client.subscribeAsync('again'), 'subscription');
        const gone = within(once(client, 'close'), 'close');
        await broker.stop('SIGKILL');
        await gone;
        const back = within(once(client, 'connect'), 'return');
        broker = await startBroker();
        await back;
        await within(client.subscribeAsync('again'), 'subscription');
        const heard = next(client);
        await within(client.publishAsync('again', 'here', { qos: 1 }), 'publication');
        assert.equal(String((await heard)[1]), 'here');
      });
    });
  }
}
