// The chat page in Chromium: several browsers talk to each other through the gateway, over wss with the development
// certificate and over ws. The ids of the page are listed at its head (chat.html).
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { startBackend } from '../support/backend.mjs';
import { openPage, startBrowser } from '../support/browser.mjs';
import { startFront } from '../support/front.mjs';
import { startServer } from '../support/servers.mjs';
import { within } from '../support/wait.mjs';

let browser;
let chat;
let echo;
let front;

before(async () => {
  chat = await startBackend('chat');
  echo = await startServer();
  front = await startFront([
    { path: '/', lines: ['page = "chat"']},
    { path: '/chat', server: chat.url },
    { path: '/npm', server: echo.url },
  ]);
  browser = await startBrowser();
});

after(async () => {
  await browser?.close();
  await front?.stop();
  await echo?.stop();
  await chat?.stop();
});

const messages = (page, kind) => page.locator(`#messages li[data-kind=${kind}]`);
const origin = (scheme) => front.url('', scheme).replace('ws', 'http');

/** A member in `room`, connected. */
async function join(scheme, room) {
  const page = await openPage(browser, `${origin(scheme)}/#${room}`);
  await connected(page);
  page.id = await page.locator('#name').getAttribute('data-id');
  return page;
}

const connected = (page, timeout = 20_000) =>
  page.locator('#status[data-state=connected]').waitFor({ state: 'attached', timeout });

async function say(page, text) {
  await page.locator('#input').fill(text);
  await page.locator('#send').click();
}

/** Waits for a message of `kind` with exactly this text; gives its item. */
async function hears(page, kind, text) {
  const item = messages(page, kind).filter({ has: page.locator('.text').getByText(text, { exact: true }) });
  await item.first().waitFor();
  return item.first();
}

/** Waits until the page shows `count` members. */
const counts = (page, count) => page.locator('#online').getByText(String(count), { exact: true }).waitFor();

async function leave(...pages) {
  for (const page of pages) {
    assert.deepEqual(page.faults, []);
    await page.context().close();
  }
}

for (const scheme of ['wss', 'ws']) {
  describe(`chat page over ${scheme}`, () => {
    test('two pages see each other and talk', async () => {
      const [ann, bob] = [await join(scheme, `${scheme}-talk`), await join(scheme, `${scheme}-talk`)];
      for (const page of [ann, bob]) {
        await counts(page, 2);
        for (const { id } of [ann, bob]) await page.locator(`#users li[data-id="${id}"]`).waitFor();
      }
      await say(ann, 'hello from ann');
      const heard = await hears(bob, 'chat', 'hello from ann');
      assert.equal(await heard.locator('.author').textContent(), await ann.locator('#name').inputValue());
      assert.ok(Date.parse(await heard.locator('time').getAttribute('datetime')) > 0);
      await hears(ann, 'chat', 'hello from ann');
      await say(bob, 'hello from bob ✓ 🌊');
      await hears(ann, 'chat', 'hello from bob ✓ 🌊');
      await leave(ann, bob);
    });

    test('the page needs nothing from elsewhere', async () => {
      const page = await join(scheme, `${scheme}-alone`);
      const hosts = new Set(page.requests.filter((url) => !url.startsWith('data:')).map((url) => new URL(url).host));
      assert.deepEqual([...hosts], [new URL(origin(scheme)).host]);
      assert.ok(page.requests.some((url) => url.startsWith(`${scheme}://`)), page.requests.join());
      await leave(page);
    });

    test('a private message reaches one alone', async () => {
      const room = `${scheme}-private`;
      const [ann, bob, eve] = [await join(scheme, room), await join(scheme, room), await join(scheme, room)];
      await counts(ann, 3);
      await ann.locator(`#users li[data-id="${bob.id}"] button`).click();
      await ann.locator('#to').waitFor();
      await say(ann, 'for bob alone');
      await hears(bob, 'private', 'for bob alone');
      await hears(ann, 'private', 'for bob alone');
      await ann.locator('#to').click();
      await say(ann, 'for everyone');
      await hears(eve, 'chat', 'for everyone');
      assert.equal(await messages(eve, 'private').count(), 0);
      await leave(ann, bob, eve);
    });

    test('who joins, changes the name and leaves is shown', async () => {
      const [ann, bob] = [await join(scheme, `${scheme}-news`), await join(scheme, `${scheme}-news`)];
      await counts(ann, 2);
      await bob.locator('#name').fill('Bob the builder');
      await bob.locator('#rename').click();
      await ann.locator(`#users li[data-id="${bob.id}"]`).getByText('Bob the builder').waitFor();
      await leave(bob);
      await counts(ann, 1);
      assert.ok((await messages(ann, 'news').count()) >= 3);
      await leave(ann);
    });

    test('markup in a message stays text', async () => {
      const [ann, bob] = [await join(scheme, `${scheme}-markup`), await join(scheme, `${scheme}-markup`)];
      const markup = '<img src=x onerror="document.title=1"><b>bold</b>';
      await say(ann, markup);
      await hears(bob, 'chat', markup);
      assert.equal(await bob.locator('#messages img, #messages b').count(), 0);
      await leave(ann, bob);
    });

    test('the page reconnects after the server was away, and says so meanwhile', async () => {
      const [ann, bob] = [await join(scheme, `${scheme}-again`), await join(scheme, `${scheme}-again`)];
      await counts(bob, 2);
      await chat.stop('SIGKILL');
      for (const page of [ann, bob]) await page.locator('#status[data-state=waiting]').waitFor({ state: 'attached' });
      assert.equal(await ann.locator('#send').isEnabled(), false);
      assert.notEqual(await ann.locator('#status').textContent(), 'Connected');
      chat = await startBackend('chat', chat.port);
      for (const page of [ann, bob]) await connected(page, 60_000);
      await counts(ann, 2);
      await say(ann, 'back again');
      await hears(bob, 'chat', 'back again');
      await leave(ann, bob);
    });
  });
}

describe("Chromium's own WebSocket", () => {
  /** Runs in the page: opens a session, exchanges, closes; gives what the browser saw. */
  const talk = (url) =>
    new Promise((resolve) => {
      const ws = new WebSocket(url, ['chat.v1', 'chat.v2']);
      const seen = { messages: [] };
      ws.binaryType = 'arraybuffer';
      ws.onopen = () => {
        Object.assign(seen, { protocol: ws.protocol, extensions: ws.extensions });
        ws.send('text ✓');
        ws.send(new Uint8Array([0, 255]));
        ws.send('x'.repeat(300_000));
      };
      ws.onmessage = ({ data }) => {
        seen.messages.push(typeof data === 'string' ? data : [...new Uint8Array(data)]);
        if (seen.messages.length === 3) ws.close(3001, 'done');
      };
      ws.onclose = ({ code, reason, wasClean }) => resolve({ ...seen, code, reason, wasClean });
    });

  test('messages, subprotocol, compression and close, with npm ws behind the gateway', async () => {
    const page = await openPage(browser, origin('wss'));
    const seen = await within(page.evaluate(talk, front.url('/npm/echo', 'wss')), 'end of the session');
    assert.deepEqual(seen.messages, ['text ✓', [0, 255], 'x'.repeat(300_000)]);
    assert.equal(seen.protocol, 'chat.v2');
    assert.match(seen.extensions, /permessage-deflate/);
    assert.deepEqual([seen.code, seen.reason, seen.wasClean], [3001, 'done', true]);
    await leave(page);
  });

  test('a page of another origin is refused', async () => {
    const page = await openPage(browser, echo.url.replace('ws', 'http'));
    const seen = await within(page.evaluate(talk, front.url('/npm/echo', 'wss')), 'end of the session');
    assert.deepEqual([seen.messages, seen.code, seen.wasClean], [[], 1006, false]);
    assert.equal(echo.session('/npm/echo').headers.origin, origin('wss'), 'the refused one never reached the server');
    await leave(page);
  });
});
