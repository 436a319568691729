// npm `ws` on both ends, through the gateway, over ws and wss.
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { after, before, describe, test } from 'node:test';
import { connect, refusal } from '../support/client.mjs';
import { direct, startFront } from '../support/front.mjs';
import { startServer } from '../support/servers.mjs';
import { until } from '../support/wait.mjs';

const generous = ['frame_bytes_max = "64MiB"', 'message_bytes_max = "64MiB"', 'fragments_max = "off"'];
/** Things that only the gateway does: a blind pipe has no opinion. */
const gateway = direct ? { skip: 'needs the gateway' } : {};

let server;
let strict;
let front;

before(async () => {
  server = await startServer();
  strict = await startServer({ maxFragments: 4, perMessageDeflate: false });
  front = await startFront([
    { path: '/', server: server.url, lines: generous },
    { path: '/strict', server: strict.url, lines: generous },
    { path: '/chosen', server: server.url, lines: ['subprotocols = ["chat.v1"]'] },
    { path: '/small', server: server.url, lines: ['message_bytes_max = "64KiB"', 'frame_bytes_max = "32KiB"'] },
    { path: '/plain', server: server.url, lines: ['compression = "off"'] },
    { path: '/gone', server: 'ws://127.0.0.1:1' },
  ]);
});

after(async () => {
  await front?.stop();
  await server?.stop();
  await strict?.stop();
});

for (const scheme of ['ws', 'wss']) {
  const open = (path, options) => connect(front.url(path, scheme), options);

  describe(`ws client over ${scheme}`, () => {
    test('text, binary and empty messages come back as they were', async () => {
      const client = await open('/echo');
      for (const message of ['hello', 'ünïcödé 🌊', '', randomBytes(1), randomBytes(125), randomBytes(126), Buffer.alloc(0)]) {
        client.send(message);
        assert.deepEqual(await client.next(), message);
      }
      for (const length of [65535, 65536, 300_000]) {
        const message = randomBytes(length);
        client.send(message);
        assert.ok(message.equals(await client.next()), `${length} bytes`);
      }
      assert.deepEqual(await client.close(), { code: 1000, reason: '' });
    });

    test('a message of 8 MiB comes back whole', async () => {
      const client = await open('/echo', { perMessageDeflate: false });
      const message = randomBytes(8 << 20);
      client.send(message);
      assert.ok(message.equals(await client.next('8 MiB')));
      await client.close();
    });

    test('fragments reach the server with the boundaries they were sent with', async () => {
      const client = await open('/echo/fragments', { perMessageDeflate: false });
      client.send('one ', { fin: false });
      client.send('', { fin: false });
      client.ws.ping('between');
      client.send('x'.repeat(70_000), { fin: false });
      client.send(' end', { fin: true });
      assert.equal(await client.next(), `one ${'x'.repeat(70_000)} end`);
      const data = server.session('/echo/fragments').frames.filter((frame) => frame.opcode < 8);
      assert.deepEqual(
        data.map(({ fin, opcode, length }) => [fin, opcode, length]),
        [[false, 1, 4], [false, 0, 0], [false, 0, 70_000], [true, 0, 4]],
      );
      assert.ok(data.every((frame) => frame.masked), 'masked toward the server');
      await client.close();
    });

    test('a server that allows four fragments gets four', async () => {
      const client = await open('/strict/echo', { perMessageDeflate: false });
      for (const fin of [false, false, false, true]) client.send('x'.repeat(100_000), { fin });
      assert.equal((await client.next()).length, 400_000);
      await client.close();
    });

    test('a ping is answered with its payload', async () => {
      const client = await open('/echo');
      for (const payload of ['', 'are you there', 'x'.repeat(125)]) {
        const pong = client.event('pong');
        client.ws.ping(payload);
        assert.equal((await pong).toString(), payload);
      }
      await client.close();
    });

    test('a ping of the server is answered with its payload', async () => {
      const client = await open('/pings');
      client.send('42');
      assert.equal(await client.next(), 'pong 42');
      await client.close();
    });

    test("the client's close code and reason reach the server", async () => {
      const client = await open('/echo/bye');
      assert.deepEqual(await client.close(3001, 'good bye ✓'), { code: 3001, reason: 'good bye ✓' });
      const session = server.session('/echo/bye');
      await until(() => session.closed, 'close at the server');
      assert.deepEqual(session.closed, { code: 3001, reason: 'good bye ✓' });
    });

    test('a close without a code stays one', async () => {
      const client = await open('/echo/silent');
      client.ws.close();
      assert.equal((await client.end()).code, 1005);
      const session = server.session('/echo/silent');
      await until(() => session.closed, 'close at the server');
      assert.equal(session.closed.code, 1005);
    });

    test("the server's close code and reason reach the client", async () => {
      const client = await open('/closes');
      client.send('please');
      assert.deepEqual(await client.end(), { code: 4002, reason: 'the server says so' });
    });

    test('the subprotocol that the server chose reaches the client', async () => {
      const client = await open('/echo/protocol', { protocols: ['chat.v1', 'chat.v2'] });
      assert.equal(client.ws.protocol, 'chat.v2');
      assert.match(server.session('/echo/protocol').headers['sec-websocket-protocol'], /^chat\.v1, ?chat\.v2$/);
      await client.close();
    });

    test('permessage-deflate is agreed on and used both ways', async () => {
      const client = await open('/echo/deflate', { perMessageDeflate: { threshold: 0 } });
      assert.match(client.ws.extensions, /permessage-deflate/);
      const message = 'compress me '.repeat(10_000);
      client.send(message);
      assert.equal(await client.next(), message);
      const [frame] = server.session('/echo/deflate').frames;
      assert.ok(frame.rsv1, 'RSV1 of a compressed message');
      assert.ok(frame.length < message.length / 20, `${frame.length} bytes on the wire`);
      await client.close();
    });

    test('cookies and other headers of the 101 reach the client', async () => {
      const client = await open('/echo');
      assert.deepEqual(client.answer.headers['set-cookie'], ['a=1; Path=/', 'b=2; HttpOnly']);
      assert.equal(client.answer.headers['x-served-by'], 'ws');
      await client.close();
    });

    test('a cookie and a token of the client reach the server', async () => {
      const client = await open('/echo/cookie', { headers: { Cookie: 'sid=7', Authorization: 'Bearer t' } });
      const { headers } = server.session('/echo/cookie');
      assert.equal(headers.cookie, 'sid=7');
      assert.equal(headers.authorization, 'Bearer t');
      await client.close();
    });

    test('what the server says first is not lost', async () => {
      for (let round = 0; round < 20; round++) {
        const client = await open('/greets');
        assert.equal(await client.next(), 'hello from the server');
        client.send('still in order');
        assert.equal(await client.next(), 'still in order');
        await client.close();
      }
    });

    for (const status of [401, 403, 404, 503]) {
      test(`a refusal of the server with ${status} reaches the client with its headers and body`, async () => {
        const refused = await refusal(front.url(`/refuse/${status}`, scheme));
        assert.equal(refused.status, status);
        assert.equal(refused.headers['x-reason'], 'test');
        assert.equal(refused.body, `refused with ${status}`);
      });
    }

    test('200 clients at once each get their own messages in order', async () => {
      await Promise.all(
        Array.from({ length: 200 }, async (_, who) => {
          const client = await open('/echo');
          for (let i = 0; i < 20; i++) client.send(`${who}:${i}`);
          for (let i = 0; i < 20; i++) assert.equal(await client.next(), `${who}:${i}`);
          assert.equal((await client.close()).code, 1000);
        }),
      );
    });

    test('10,000 messages of many sizes keep their order', async () => {
      const client = await open('/echo', { perMessageDeflate: false });
      const message = (i) => `${i} ${'x'.repeat((i * 37) % 1500)}`;
      for (let i = 0; i < 10_000; i++) client.send(message(i));
      for (let i = 0; i < 10_000; i++) assert.equal(await client.next(), message(i));
      await client.close();
    });

    test('what one says, the whole room hears', async () => {
      const members = await Promise.all(Array.from({ length: 20 }, () => open('/room')));
      members[0].send('everyone?');
      const heard = await Promise.all(members.slice(1).map((member) => member.next()));
      assert.deepEqual(new Set(heard), new Set(['everyone?']));
      await Promise.all(members.map((member) => member.close()));
    });
  });
}

describe('certificates', () => {
  test('the development certificate is accepted by a client that trusts it', async () => {
    const url = front.url('/echo', 'wss');
    for (const host of ['127.0.0.1', 'localhost']) {
      const client = await connect(url.replace('127.0.0.1', host), { rejectUnauthorized: true, ca: front.ca });
      client.send('trusted');
      assert.equal(await client.next(), 'trusted');
      await client.close();
    }
  });

  test('and refused by one that does not', async () => {
    await assert.rejects(connect(front.url('/echo', 'wss'), { rejectUnauthorized: true }), /certificate/);
  });

  for (const version of ['TLSv1.2', 'TLSv1.3']) {
    test(`${version} is spoken`, async () => {
      const client = await connect(front.url('/echo', 'wss'), { minVersion: version, maxVersion: version });
      assert.equal(client.ws._socket.getProtocol(), version);
      client.send(version);
      assert.equal(await client.next(), version);
      await client.close();
    });
  }
});

describe('what the gateway does that a blind pipe cannot', gateway, () => {
  const head = { 'Sec-WebSocket-Key': 'dGhlIHNhbXBsZSBub25jZQ==', Connection: 'Upgrade', Upgrade: 'websocket' };

  test('the server learns who the client is', async () => {
    for (const [scheme, proto] of [['ws', 'http'], ['wss', 'https']]) {
      const path = `/echo/forwarded-${scheme}`;
      const client = await connect(front.url(path, scheme), {
        headers: { 'X-Forwarded-For': '203.0.113.9', 'X-Forwarded-Proto': 'gopher', X_Forwarded_For: '203.0.113.9' },
      });
      const { headers } = server.session(path);
      assert.equal(headers['x-forwarded-for'], '127.0.0.1');
      assert.equal(headers['x-forwarded-proto'], proto);
      assert.equal(headers.x_forwarded_for, undefined);
      await client.close();
    }
  });

  test("a client's ping does not reach the server", async () => {
    const client = await connect(front.url('/echo/pinged'));
    const pong = client.event('pong');
    client.ws.ping('for the gateway');
    await pong;
    client.send('after');
    await client.next();
    assert.equal(server.session('/echo/pinged').pings, undefined);
    await client.close();
  });

  test('a server that dies ends the session with 1011', async () => {
    const client = await connect(front.url('/dies'));
    client.send('die');
    assert.equal((await client.end()).code, 1011);
  });

  test('a client that dies ends the session with 1001', async () => {
    const client = await connect(front.url('/echo/lost'));
    client.ws.terminate();
    const session = server.session('/echo/lost');
    await until(() => session.closed, 'close at the server');
    assert.equal(session.closed.code, 1001);
  });

  test('a message that is too big ends with 1009, and the server hears 1001', async () => {
    for (const [name, frames] of [['frame', [40_000]], ['message', [30_000, 30_000, 30_000]]]) {
      const client = await connect(front.url(`/small/${name}`), { perMessageDeflate: false });
      frames.forEach((length, i) => client.send(Buffer.alloc(length), { fin: i === frames.length - 1 }));
      assert.equal((await client.end()).code, 1009, name);
      const session = server.session(`/small/${name}`);
      await until(() => session.closed, 'close at the server');
      assert.equal(session.closed.code, 1001, name);
    }
  });

  test('compression = "off" takes the offer away', async () => {
    const client = await connect(front.url('/plain/echo'));
    assert.equal(client.ws.extensions, '');
    assert.equal(server.session('/plain/echo').headers['sec-websocket-extensions'], undefined);
    await client.close();
  });

  test('only the subprotocols of the route reach the server', async () => {
    const client = await connect(front.url('/chosen/echo'), { protocols: ['chat.v2', 'chat.v1'] }).catch((error) => error);
    // The server chooses none of what is left; `ws` calls that an error of its own.
    assert.match(String(client.message), /no subprotocol/);
    assert.equal(server.session('/chosen/echo').headers['sec-websocket-protocol'], 'chat.v1');
  });

  test('a foreign origin is refused with 403, our own is not', async () => {
    const url = front.url('/echo');
    assert.equal((await refusal(url, { origin: 'https://evil.example' })).status, 403);
    const client = await connect(url, { origin: url.replace('ws:', 'http:').replace('/echo', '') });
    await client.close();
  });

  test('an upstream that is not there is a 502', async () => {
    assert.equal((await refusal(front.url('/gone'))).status, 502);
  });

  test('another version of the protocol is refused with 426 and the version we speak', async () => {
    const response = await rawUpgrade(front.url('/echo'), { ...head, 'Sec-WebSocket-Version': '12' });
    assert.equal(response.statusCode, 426);
    assert.equal(response.headers['sec-websocket-version'], '13');
  });

  test('plain HTTP on a route for WebSockets is a 426', async () => {
    const response = await fetch(front.url('/echo').replace('ws:', 'http:'));
    assert.equal(response.status, 426);
    assert.equal(response.headers.get('upgrade'), 'websocket');
  });

  test('a fault is answered and the next client is served', async () => {
    const response = await rawUpgrade(front.url('/echo'), { ...head, 'Sec-WebSocket-Key': 'short', 'Sec-WebSocket-Version': '13' });
    assert.equal(response.statusCode, 400);
    const client = await connect(front.url('/echo'));
    client.send('next');
    assert.equal(await client.next(), 'next');
    await client.close();
  });
});

/** An upgrade request with exactly these headers; gives the response that refuses it. */
async function rawUpgrade(url, headers) {
  const { request } = await import('node:http');
  return new Promise((resolve, reject) => {
    const outgoing = request(url.replace('ws:', 'http:'), { headers });
    outgoing.on('response', (response) => resolve(response.resume()));
    outgoing.on('upgrade', (_, socket) => {
      socket.destroy();
      reject(new Error('the upgrade was not refused'));
    });
    outgoing.on('error', reject);
    outgoing.setTimeout(10_000, () => outgoing.destroy(new Error('no answer')));
    outgoing.end();
  });
}
