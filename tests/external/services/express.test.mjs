// Express 4 with `ws` on one port, asked by fetch, npm `ws` and Chromium, through the gateway of docs/recipes/express.md.
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import '../support/any-certificate.mjs';
import { openPage, startBrowser } from '../support/browser.mjs';
import { connect } from '../support/client.mjs';
import { direct, startRecipe } from '../support/front.mjs';
import { startExpress } from './express.mjs';

let server;
let front;
let browser;

before(async () => {
  server = await startExpress();
  front = await startRecipe('express', [server.url]);
  browser = await startBrowser();
});

after(async () => {
  await browser?.close();
  await front?.stop();
  server?.stop();
});

for (const scheme of ['ws', 'wss']) {
  const ask = (path, options) => fetch(front.http(path, scheme), { signal: AbortSignal.timeout(20_000), ...options });

  describe(`express with ws over ${scheme}`, () => {
    test('the page in Chromium, its files, its request and its WebSocket with the cookie', async () => {
      const page = await openPage(browser, front.http('/', scheme));
      const protocol = scheme === 'wss' && !direct ? 'https' : 'http';
      await page.getByText(`cookie visitor=7;hello from ${protocol};`, { exact: true }).waitFor();
      assert.equal(await page.locator('#said').evaluate((said) => getComputedStyle(said).color), 'rgb(1, 2, 3)');
      assert.deepEqual(page.faults, []);
      await page.context().close();
    });

    test('what one client says reaches all, and npm ws is one of them', async () => {
      const [ann, bob] = await Promise.all([1, 2].map(() => connect(front.url('/live', scheme))));
      for (const client of [ann, bob]) assert.equal(await client.next(), 'cookie none');
      ann.send('hello');
      for (const client of [ann, bob]) assert.equal(await client.next(), 'hello');
      await Promise.all([ann.close(), bob.close()]);
    });

    test('with `trust proxy` it knows the scheme, the host and the client', { skip: direct }, async () => {
      const secure = scheme === 'wss';
      const expected = { protocol: secure ? 'https' : 'http', secure, hostname: '127.0.0.1', ip: '127.0.0.1' };
      assert.deepEqual(await (await ask('/api/who')).json(), expected);
    });

    test('a page that is known is not sent again, and HEAD has no body', async () => {
      const first = await ask('/');
      assert.match(await first.text(), /<title>board<\/title>/);
      // Beside a condition of ours, fetch would ask for a fresh one.
      const headers = { 'If-None-Match': first.headers.get('etag'), 'Cache-Control': 'max-age=0' };
      const again = await ask('/', { headers });
      assert.deepEqual([again.status, await again.text()], [304, '']);
      const head = await ask('/', { method: 'HEAD' });
      assert.deepEqual([head.status, await head.text()], [200, '']);
      assert.equal(head.headers.get('content-length'), first.headers.get('content-length'));
    });

    test('bodies reach it: JSON, and 20 MB that are streamed', async () => {
      const json = await ask('/api/echo', {
        method: 'POST',
        headers: { 'Content-Type': 'application/json' },
        body: JSON.stringify({ some: ['thing', '🌊'] }),
      });
      assert.deepEqual([json.status, await json.json()], [201, { some: ['thing', '🌊'] }]);
      const piece = new Uint8Array(1e6);
      const body = ReadableStream.from((async function* () {
        for (let i = 0; i < 20; i++) yield piece;
      })());
      const streamed = await ask('/api/length', { method: 'PUT', body, duplex: 'half' });
      assert.deepEqual(await streamed.json(), { length: 20e6 });
    });

    test('its own errors and redirections pass as they are', async () => {
      const fails = await ask('/api/fails');
      assert.equal(fails.status, 418);
      assert.match(await fails.text(), /out of tea/);
      assert.equal((await ask('/nowhere')).status, 404);
      const moved = await ask('/api/moved', { redirect: 'manual' });
      assert.deepEqual([moved.status, moved.headers.get('location')], [302, '/']);
    });
  });
}
