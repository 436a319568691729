// Python `websockets`: its clients and its server with the gateway between them, and each of them with npm `ws`.
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { connect } from '../support/client.mjs';
import { startFront } from '../support/front.mjs';
import { Process } from '../support/process.mjs';
import { python } from '../support/python.mjs';

const script = (name) => join(import.meta.dirname, name);
const lines = ['frame_bytes_max = "64MiB"', 'message_bytes_max = "64MiB"', 'fragments_max = "off"'];

let server;
let front;

before(async () => {
  server = new Process(python, [script('server.py')]);
  const [, url] = await server.line(/listening on (\S+)/);
  front = await startFront([{ path: '/python', server: url, lines }]);
});

after(async () => {
  await front?.stop();
  await server?.stop();
});

for (const scheme of ['ws', 'wss']) {
  test(`websockets client and server over ${scheme}`, async (t) => {
    const client = new Process(python, [script('client.py'), front.url('/python', scheme), front.caFile]);
    t.after(() => client.stop());
    const [, count] = await client.line(/^done (\d+)$/m, 240_000);
    const checks = [...client.output.matchAll(/^(ok|not ok) (.*)\n((?:# .*\n)*)/gm)];
    assert.equal(checks.length, Number(count), client.output);
    for (const [, verdict, name, reason] of checks) {
      await t.test(name, () => assert.equal(verdict, 'ok', reason));
    }
  });
}

describe('npm ws client, websockets server', () => {
  test('text, binary, and compressed messages come back', async () => {
    const client = await connect(front.url('/python/echo', 'wss'), { ca: front.ca, rejectUnauthorized: true });
    assert.match(client.ws.extensions, /permessage-deflate/);
    for (const message of ['hello', '', 'compress me '.repeat(10_000), Buffer.from([0, 255])]) {
      client.send(message);
      assert.deepEqual(await client.next(), message);
    }
    assert.deepEqual(await client.close(3000, 'done'), { code: 3000, reason: 'done' });
  });

  test('fragments keep their boundaries', async () => {
    const client = await connect(front.url('/python/fragments'), { perMessageDeflate: false });
    for (const [i, length] of [1, 70_000, 5].entries()) client.send('x'.repeat(length), { fin: i === 2 });
    assert.deepEqual(JSON.parse(await client.next()), [1, 70_000, 5]);
    await client.close();
  });
});
