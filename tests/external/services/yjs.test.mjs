// y-websocket, its own server and client: documents that several edit, through the gateway of docs/recipes/yjs.md.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer } from 'node:http';
import { after, before, describe, test } from 'node:test';
import { docs, setupWSConnection } from '@y/websocket-server/utils';
import { WebSocket, WebSocketServer } from 'ws';
import { WebsocketProvider } from 'y-websocket';
import * as Y from 'yjs';
import { startRecipe } from '../support/front.mjs';
import { until } from '../support/wait.mjs';

let http;
let wss;
let front;

before(async () => {
  http = createServer();
  wss = new WebSocketServer({ server: http });
  wss.on('connection', setupWSConnection);
  http.listen(0, '127.0.0.1');
  await once(http, 'listening');
  front = await startRecipe('yjs', [`ws://127.0.0.1:${http.address().port}`]);
});

after(async () => {
  await front?.stop();
  for (const client of wss?.clients ?? []) client.terminate();
  http?.close();
  for (const doc of docs.values()) doc.destroy(); // each has a clock
});

for (const scheme of ['ws', 'wss']) {
  /** The polyfill takes no options. */
  class Trusting extends WebSocket {
    constructor(url, protocols) {
      super(url, protocols, { ca: front.ca });
    }
  }

  const open = async (t, room) => {
    const doc = new Y.Doc();
    const options = { WebSocketPolyfill: Trusting, disableBc: true, maxBackoffTime: 100 };
    const provider = new WebsocketProvider(front.url('/yjs', scheme), `${room}-${scheme}`, doc, options);
    t.after(() => {
      provider.destroy();
      doc.destroy();
    });
    await until(() => provider.synced, 'the document');
    return { doc, provider, text: doc.getText('text') };
  };

  describe(`y-websocket over ${scheme}`, () => {
    test('what two write at once is the same for both', async (t) => {
      const [ann, bob] = [await open(t, 'both'), await open(t, 'both')];
      for (let i = 0; i < 100; i++) {
        ann.text.insert(0, `a${i} `);
        bob.text.insert(bob.text.length, `b${i} `);
      }
      const whole = ({ text }) => text.length === ann.text.length && text.toString().includes('a99') && text.toString().includes('b99');
      await until(() => whole(ann) && whole(bob), 'the words of both');
      assert.equal(ann.text.toString(), bob.text.toString());
      assert.equal(ann.text.toString().split(' ').length, 201);
    });

    test('who comes later gets all of it, 1 MB too', async (t) => {
      const ann = await open(t, 'later');
      ann.text.insert(0, '🌊'.repeat(250_000));
      const bob = await open(t, 'later');
      await until(() => bob.text.length === ann.text.length, 'the text');
      assert.equal(bob.text.toString(), ann.text.toString());
    });

    test('who is there is known, and who leaves is gone', async (t) => {
      const [ann, bob] = [await open(t, 'aware'), await open(t, 'aware')];
      bob.provider.awareness.setLocalStateField('user', 'bob');
      const others = () => [...ann.provider.awareness.getStates()].filter(([id]) => id !== ann.doc.clientID);
      await until(() => others().some(([, state]) => state.user === 'bob'), 'bob');
      bob.provider.destroy();
      await until(() => others().length === 0, 'the end of bob');
      assert.deepEqual(others(), []);
    });

    test('who was cut off comes back with what was written meanwhile', async (t) => {
      const [ann, bob] = [await open(t, 'cut'), await open(t, 'cut')];
      bob.provider.disconnect();
      ann.text.insert(0, 'from ann ');
      bob.text.insert(0, 'from bob ');
      bob.provider.connect();
      await until(() => bob.text.length === 18 && ann.text.length === 18, 'the words of both');
      assert.equal(ann.text.toString(), bob.text.toString());
    });
  });
}
