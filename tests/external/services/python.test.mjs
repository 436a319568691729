// Starlette on uvicorn, aiohttp and Tornado, each through the gateway of docs/recipes/python.md.
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import '../support/any-certificate.mjs';
import { connect } from '../support/client.mjs';
import { direct, startRecipe } from '../support/front.mjs';
import { Process } from '../support/process.mjs';
import { python } from '../support/python.mjs';
import { within } from '../support/wait.mjs';

for (const name of ['uvicorn', 'aiohttp', 'tornado']) {
  describe(name, () => {
    let server;
    let front;

    before(async () => {
      server = new Process(python, [join(import.meta.dirname, `on_${name}.py`)]);
      const [, url] = await server.line(/listening on (\S+)/);
      front = await startRecipe('python', [url]);
    });

    after(async () => {
      await front?.stop();
      await server?.stop();
    });

    for (const scheme of ['ws', 'wss']) {
      const ask = (path, options) => fetch(front.http(path, scheme), { signal: AbortSignal.timeout(20_000), ...options });
      const http = scheme === 'wss' ? 'https' : 'http';

      test(`messages, subprotocol and close over ${scheme}`, async () => {
        const client = await connect(front.url('/live', scheme), { protocols: ['other', 'chat'] });
        assert.equal(client.ws.protocol, 'chat');
        const seen = JSON.parse(await client.next());
        if (!direct) assert.match(seen.scheme, scheme === 'wss' ? /^(wss|https)$/ : /^(ws|http)$/);
        assert.equal(seen.client, '127.0.0.1');
        for (const message of ['hello', '🌊', 'x'.repeat(200_000), randomBytes(200_000)]) {
          client.send(message);
          assert.deepEqual(await client.next(), message);
        }
        client.send('close');
        assert.deepEqual(await client.end(), { code: 4001, reason: 'as you wish' });
      });

      test(`it knows who asks over ${http}`, { skip: direct }, async () => {
        const { host } = new URL(front.url('', scheme));
        assert.deepEqual(await (await ask('/who')).json(), { scheme: http, client: '127.0.0.1', host });
      });

      test(`an upload, with and without a length, over ${http}`, async () => {
        const part = new Uint8Array(1e6);
        const parts = async function* () {
          for (let i = 0; i < 5; i++) yield part;
        };
        for (const body of [new Uint8Array(5e6), ReadableStream.from(parts())]) {
          const answer = await ask('/length', { method: 'PUT', body, duplex: 'half' });
          assert.deepEqual(await answer.json(), { length: 5e6 });
        }
      });

      test(`each event comes before the next is sent over ${http}`, async () => {
        const events = (await ask('/events')).body.getReader();
        for (let tick = 0; tick < 5; tick++) {
          const { value } = await within(events.read(), `event ${tick}`);
          assert.equal(Buffer.from(value).toString(), `data: ${tick}\n\n`);
          assert.equal((await ask('/next')).status, 200); // not before it is sent the next
        }
        assert.equal((await within(events.read(), 'end of the events')).done, true);
      });
    }
  });
}
