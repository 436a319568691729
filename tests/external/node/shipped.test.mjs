// The example that is shipped: config.toml of the repository serves echo, clock, chat and the page over ws and wss.
import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { connect } from '../support/client.mjs';
import { binary, direct } from '../support/front.mjs';
import { freePort } from '../support/ports.mjs';
import { Process } from '../support/process.mjs';
import { within } from '../support/wait.mjs';

const shipped = join(import.meta.dirname, '../../../config.toml');

/** The file with free ports in the place of its own, so that tests run beside each other and beside a real gateway. */
async function onFreePorts(text) {
  const ports = new Map();
  for (const [, port] of text.matchAll(/^address = "127\.0\.0\.1:(\d+)"/gm)) ports.set(port, 0);
  for (const [, port] of text.matchAll(/^listen = "127\.0\.0\.1:(\d+)"/gm)) ports.set(port, await freePort());
  return text.replace(/127\.0\.0\.1:(\d+)"/g, (_, port) => `127.0.0.1:${ports.get(port)}"`);
}

describe('the shipped config.toml', direct ? { skip: 'needs the gateway' } : {}, () => {
  let directory;
  let gateway;
  let urls;

  before(async () => {
    directory = mkdtempSync(join(tmpdir(), 'tidegate-shipped-'));
    writeFileSync(join(directory, 'config.toml'), await onFreePorts(readFileSync(shipped, 'utf8')));
    gateway = new Process(binary, [], { cwd: directory });
    const [, ws] = await gateway.line(/listening on (ws:\S+)/);
    const [, wss] = await gateway.line(/listening on (wss:\S+)/);
    urls = { ws, wss };
  });

  after(async () => {
    await gateway?.stop();
    if (directory) rmSync(directory, { recursive: true, force: true });
  });

  for (const scheme of ['ws', 'wss']) {
    test(`echo, clock and chat answer over ${scheme}`, async () => {
      const echo = await connect(`${urls[scheme]}/echo`);
      echo.send('hello');
      assert.equal(await echo.next(), 'hello');
      await echo.close();

      const clock = await connect(`${urls[scheme]}/clock`);
      assert.ok(Date.parse(await clock.next()) > 0);
      await clock.close();

      const chat = await connect(`${urls[scheme]}/chat`);
      assert.equal(JSON.parse(await chat.next()).type, 'your-id');
      await chat.close();
    });
  }

  test('the page is at /', async () => {
    const response = await fetch(urls.ws.replace('ws', 'http'));
    assert.equal(response.status, 200);
    assert.match(response.headers.get('content-type'), /^text\/html/);
    assert.match(await response.text(), /<title>Tidegate chat<\/title>/);
  });

  test('it ends by SIGTERM with sessions open, which hear 1012', async () => {
    const client = await connect(`${urls.ws}/echo`);
    gateway.child.kill('SIGTERM');
    assert.equal((await client.end()).code, 1012);
    assert.deepEqual(await within(gateway.ended, 'end of the gateway'), { code: 0, signal: null });
  });
});
