// Server-sent events with npm `eventsource` and in Chromium, long and short polling, through the gateway of
// docs/recipes/sse.md. Events are measured against those that come without a gateway.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer } from 'node:http';
import { after, before, describe, test } from 'node:test';
import { EventSource } from 'eventsource';
import '../support/any-certificate.mjs';
import { openPage, startBrowser } from '../support/browser.mjs';
import { startRecipe } from '../support/front.mjs';
import { until, within } from '../support/wait.mjs';

const EVENTS = 200;
/** What the gateway may add at the median, and how often as late as without it: generous, processors are shared. */
const ADDED_MS = 5;
const RATIO = 20;

let server;
let front;
let browser;

/** Streams at /events, answers /poll when there is news, and /state at once. */
async function startServer() {
  const streams = new Set();
  const polls = new Set();
  const http = createServer((request, response) => {
    const { pathname } = new URL(request.url, 'http://server');
    const among = { '/events': streams, '/poll': polls }[pathname];
    response.setHeader('Access-Control-Allow-Origin', '*');
    response.setHeader('Cache-Control', 'no-cache');
    if (pathname === '/') return response.setHeader('Content-Type', 'text/html').end('<title>news</title>');
    if (!among) return response.end(JSON.stringify({ state: streams.size + polls.size }));
    among.add(response);
    response.since = request.headers['last-event-id'];
    response.on('close', () => among.delete(response));
    if (among === streams) response.writeHead(200, { 'Content-Type': 'text/event-stream' }).flushHeaders();
  });
  http.listen(0, '127.0.0.1');
  await once(http, 'listening');
  return {
    url: `ws://127.0.0.1:${http.address().port}`,
    http: `http://127.0.0.1:${http.address().port}`,
    streams,
    polls,
    /** Waits for `count` of them. */
    waiting: (among, count) => until(() => among.size === count && [...among], `${count} that wait, not ${among.size}`),
    stop() {
      http.closeAllConnections();
      http.close();
    },
  };
}

before(async () => {
  server = await startServer();
  front = await startRecipe('sse', [server.url]);
  browser = await startBrowser();
});

after(async () => {
  await browser?.close();
  await front?.stop();
  server?.stop();
});

/** An open stream, whose events can be awaited. */
async function listen(t, url) {
  const source = new EventSource(url);
  t.after(() => source.close());
  const inbox = [];
  source.addEventListener('message', (event) => inbox.push({ data: event.data, at: performance.now() }));
  await within(new Promise((resolve) => source.addEventListener('open', resolve, { once: true })), `stream at ${url}`);
  source.next = () => until(() => inbox.shift(), 'event');
  source.inbox = inbox;
  return source;
}

const median = (list) => list.toSorted((a, b) => a - b)[list.length >> 1];
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/**
 * That `measure` gives delays (through the gateway, and without it; in ms, of the same events) that hardly differ. The machine's
 * noise only ever adds, so one quiet time of three is enough.
 */
async function hardlyLater(t, measure) {
  for (let times = 1; ; times++) {
    const [ours, theirs] = (await measure()).map(median);
    t.diagnostic(`median of ${EVENTS} events: ${ours.toFixed(2)} ms, without a gateway ${theirs.toFixed(2)} ms`);
    if (ours - theirs < ADDED_MS && ours < Math.max(theirs, 0.5) * RATIO) return;
    assert.ok(times < 3, `${ours} ms, and ${theirs} ms without a gateway`);
  }
}

for (const scheme of ['ws', 'wss']) {
  const url = (path) => front.http(path, scheme);

  describe(`server-sent events over ${scheme}`, () => {
    test('each event comes before the next is sent, however short', async (t) => {
      const source = await listen(t, url('/events'));
      const [stream] = await server.waiting(server.streams, 1);
      for (const data of ['a', 'event', 'x'.repeat(1000), 'y'.repeat(100_000), 'b']) {
        stream.write(`data: ${data}\n\n`);
        assert.equal((await source.next()).data, data);
      }
    });

    test('events come at the median as soon as without a gateway', async (t) => {
      await hardlyLater(t, async () => {
        const sources = [await listen(t, url('/events')), await listen(t, `${server.http}/events`)];
        const streams = await server.waiting(server.streams, 2);
        const sent = [];
        for (let i = 0; i < EVENTS; i++) {
          // In turns, so that none is always the first.
          for (const at of [i % 2, 1 - (i % 2)]) {
            sent.push([at, performance.now()]);
            streams[at].write(`data: ${i}\n\n`);
            await pause(2);
          }
        }
        await until(() => sources.every(({ inbox }) => inbox.length === EVENTS), 'all events');
        for (const source of sources) source.close();
        await server.waiting(server.streams, 0);
        return sources.map(({ inbox }, at) => {
          const times = sent.filter(([to]) => to === at);
          return inbox.map((event, i) => event.at - times[i][1]);
        });
      });
    });

    test('who was cut off comes back and tells what it has seen', async (t) => {
      const source = await listen(t, url('/events'));
      const [stream] = await server.waiting(server.streams, 1);
      stream.end('retry: 10\nid: 41\ndata: last\n\n');
      assert.equal((await source.next()).data, 'last');
      const [again] = await until(() => !server.streams.has(stream) && server.streams.size === 1 && [...server.streams], 'return');
      assert.equal(again.since, '41');
    });

    test('a client that leaves ends its stream at the server', async (t) => {
      const source = await listen(t, url('/events'));
      await server.waiting(server.streams, 1);
      source.close();
      await server.waiting(server.streams, 0);
      assert.equal(server.streams.size, 0);
    });

    test('in Chromium, as soon as without a gateway', async (t) => {
      const page = await openPage(browser, url('/'));
      await hardlyLater(t, async () => {
        const done = page.evaluate(
          ({ urls, count }) => {
            const now = () => performance.timeOrigin + performance.now();
            const delays = (url) =>
              new Promise((resolve, reject) => {
                const late = [];
                const source = new EventSource(url);
                source.onerror = () => reject(new Error(`the stream at ${url} broke`));
                source.onmessage = ({ data }) => {
                  late.push(now() - Number(data));
                  if (late.length === count) source.close(), resolve(late);
                };
              });
            return Promise.all(urls.map(delays));
          },
          { urls: [url('/events'), `${server.http}/events`], count: EVENTS },
        );
        const streams = await server.waiting(server.streams, 2);
        for (let i = 0; i < EVENTS; i++) {
          for (const stream of i % 2 ? streams : streams.toReversed()) {
            stream.write(`data: ${performance.timeOrigin + performance.now()}\n\n`);
            await pause(2);
          }
        }
        await server.waiting(server.streams, 0);
        return within(done, 'all events in Chromium');
      });
      assert.deepEqual(page.faults, []);
      await page.context().close();
    });
  });

  describe(`polling over ${scheme}`, () => {
    test('long polls are answered when there is news, 50 at once', async () => {
      for (let round = 0; round < 3; round++) {
        const polls = Array.from({ length: 50 }, async () => (await fetch(url('/poll'))).text());
        for (const [i, poll] of (await server.waiting(server.polls, 50)).entries()) poll.end(`news ${i}`);
        const news = await within(Promise.all(polls), 'answers to the polls');
        assert.equal(new Set(news).size, 50);
      }
    });

    test('parts of an answer come as they are sent', async () => {
      const asked = fetch(url('/poll'));
      const [poll] = await server.waiting(server.polls, 1);
      poll.flushHeaders();
      const reader = (await within(asked, 'head of the answer')).body.getReader();
      for (const part of ['a', 'bc', 'd'.repeat(5000)]) {
        poll.write(part);
        let came = '';
        while (came.length < part.length) came += Buffer.from((await within(reader.read(), 'part')).value);
        assert.equal(came, part);
      }
      poll.end();
      assert.equal((await within(reader.read(), 'end')).done, true);
    });

    test('a poll that is given up ends at the server', async () => {
      const given = new AbortController();
      const poll = fetch(url('/poll'), { signal: given.signal });
      await server.waiting(server.polls, 1);
      given.abort();
      await assert.rejects(poll, { name: 'AbortError' });
      await server.waiting(server.polls, 0);
    });

    test('a thousand short polls, one after another and at once', async () => {
      for (let round = 0; round < 50; round++) {
        const answers = await within(
          Promise.all(Array.from({ length: 20 }, async () => (await fetch(url('/state'))).json())),
          'answers',
        );
        for (const answer of answers) assert.deepEqual(answer, { state: 0 });
      }
    });
  });
}
