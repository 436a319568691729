// The embedded backends through the gateway, asked by npm `ws` over ws and wss.
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { startBackend } from '../support/backend.mjs';
import { connect } from '../support/client.mjs';
import { direct, startFront } from '../support/front.mjs';

const skip = direct && { skip: 'the embedded backends are part of the binary' };

describe('embedded backends', skip || {}, () => {
  const backends = [];
  let front;

  before(async () => {
    for (const kind of ['echo', 'clock', 'chat']) backends.push([kind, await startBackend(kind)]);
    front = await startFront(backends.map(([kind, { url }]) => ({ path: `/${kind}`, server: url })));
  });

  after(async () => {
    await front?.stop();
    for (const [, backend] of backends) await backend.stop();
  });

  for (const scheme of ['ws', 'wss']) {
    const join = async (room = '') => {
      const client = await connect(front.url(`/chat${room}`, scheme));
      client.nextOf = async (type) => {
        for (;;) {
          const message = JSON.parse(await client.next(type));
          if (message.type === type) return message;
        }
      };
      client.id = (await client.nextOf('your-id')).id;
      client.name = (await client.nextOf('welcome')).userName;
      return client;
    };

    test(`echo over ${scheme}: text and binary come back as they are`, async () => {
      const client = await connect(front.url('/echo', scheme));
      for (const message of ['hello', 'ünïcödé 🌊', '', Buffer.from([0, 1, 255]), Buffer.alloc(0)]) {
        client.send(message);
        assert.deepEqual(await client.next(), message);
      }
      assert.deepEqual(await client.close(3001, 'thanks'), { code: 3001, reason: 'thanks' });
    });

    test(`clock over ${scheme}: the time comes by itself, and goes on`, async () => {
      const client = await connect(front.url('/clock', scheme));
      const first = Date.parse(await client.next());
      const second = Date.parse(await client.next());
      assert.ok(Math.abs(first - Date.now()) < 10_000, `${first}`);
      assert.ok(second > first);
      await client.close();
    });

    test(`chat over ${scheme}: what is said reaches everyone, who comes and goes is told`, async () => {
      const room = `/${scheme}-talk`;
      const ann = await join(room);
      const bob = await join(room);
      const joined = await ann.nextOf('user-join');
      assert.equal(joined.userName, bob.name);
      assert.equal(joined.onlineCount, 2);
      bob.send('hello room');
      for (const member of [ann, bob]) {
        const said = await member.nextOf('chat-message');
        assert.equal(said.message, 'hello room');
        assert.equal(said.userName, bob.name);
        assert.ok(Date.parse(said.time) > 0, said.time);
      }
      await bob.close();
      const left = await ann.nextOf('user-leave');
      assert.equal(left.userName, bob.name);
      assert.equal(left.onlineCount, 1);
      await ann.close();
    });

    test(`chat over ${scheme}: a private message reaches one alone`, async () => {
      const room = `/${scheme}-private`;
      const [ann, bob, eve] = [await join(room), await join(room), await join(room)];
      ann.send(JSON.stringify({ type: 'private', to: bob.id, content: 'psst' }));
      const whispered = await bob.nextOf('private-message');
      assert.equal(whispered.from, ann.id);
      assert.equal(whispered.content, 'psst');
      ann.send('out loud');
      const heard = [];
      for (let message; message?.type !== 'chat-message'; heard.push(message)) message = JSON.parse(await eve.next());
      assert.ok(!heard.some(({ type }) => type === 'private-message'));
      await Promise.all([ann, bob, eve].map((member) => member.close()));
    });

    test(`chat over ${scheme}: mistakes are answered and hurt nobody`, async () => {
      const ann = await join(`/${scheme}-mistakes`);
      for (const mistake of ['{broken', '{"type":"dance"}', '{"type":"private","to":"nobody","content":"x"}']) {
        ann.send(mistake);
        assert.ok((await ann.nextOf('error')).message.length > 0, mistake);
      }
      ann.send('{"type":"rename","userName":"Ann the first"}');
      ann.send('still here');
      assert.equal((await ann.nextOf('chat-message')).userName, 'Ann the first');
      await ann.close();
    });

    test(`chat over ${scheme}: rooms are apart`, async () => {
      const [here, there] = [await join(`/${scheme}-a`), await join(`/${scheme}-b`)];
      here.send('in a');
      there.send('in b');
      assert.equal((await there.nextOf('chat-message')).message, 'in b');
      await Promise.all([here.close(), there.close()]);
    });
  }
});
