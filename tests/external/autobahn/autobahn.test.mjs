// The Autobahn cases through the gateway, judged against the same server without it.
//
// The short run (CI) has sections 1 to 7, 9 and 10 whole and a sample of 12 and 13, whose cases send 1,000 compressed
// messages each and take an hour of processor time between them; AUTOBAHN_ALL=1 runs all 517.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import net from 'node:net';
import { join } from 'node:path';
import { test } from 'node:test';
import tls from 'node:tls';
import { direct as withoutGateway, startFront } from '../support/front.mjs';
import { startServer } from '../support/servers.mjs';
import { engine, runCases } from './engines.mjs';
import { faults } from './verdict.mjs';

const expected = JSON.parse(readFileSync(join(import.meta.dirname, 'expected.json'), 'utf8'));
const all = process.env.AUTOBAHN_ALL === '1';
const core = ['1.*', '2.*', '3.*', '4.*', '5.*', '6.*', '7.*', '10.*'];
const cases = all
  ? [...core, '9.*', '12.*', '13.*']
  : [
      ...core,
      '9.*',
      // 16 B, 1 KiB and 8 KiB messages of each kind of content; one that is sent in fragments.
      ...[1, 2, 3, 4, 5].flatMap((kind) => [1, 4, 6].map((size) => `12.${kind}.${size}`)),
      '12.1.11',
      // Each choice of window sizes and context takeover.
      ...[1, 2, 3, 4, 5, 6, 7].map((offer) => `13.${offer}.4`),
      '13.1.11',
    ];
const count = all ? expected.cases : 301 + 16 + 8;
const bound = all ? 3_000_000 : 280_000;

test(`Autobahn by ${engine}, ${count} cases`, async (t) => {
  const server = await startServer({ maxFragments: 0, maxPayload: 0, handleProtocols: undefined });
  t.after(() => server.stop());
  const lines = ['frame_bytes_max = "64MiB"', 'message_bytes_max = "64MiB"', 'fragments_max = "off"'];
  const front = await startFront([{ path: '/', server: server.url, lines }]);
  t.after(() => front.stop());

  const direct = await runCases(`${server.url}/echo`, 'direct', cases, bound);
  const gateway = await runCases(front.url('/echo'), withoutGateway ? 'pipe' : 'gateway', cases, bound);
  await t.test('every case was run', () => {
    assert.equal(Object.keys(direct).length, count);
    assert.deepEqual(Object.keys(gateway).sort(), Object.keys(direct).sort());
  });
  await compare(t, 'ws', cases, gateway, direct);

  const pipe = await startTlsPipe(Number(new URL(front.url('/echo', 'wss')).port));
  t.after(() => pipe.close());
  const overTls = await runCases(`ws://127.0.0.1:${pipe.address().port}/echo`, 'gateway-tls', core, bound);
  await compare(t, 'wss', core, overTls, direct);
});

/** One test for each section of `cases`. */
async function compare(t, scheme, cases, results, direct) {
  const broken = expected.errors[engine]?.cases ?? [];
  const errors = Object.fromEntries(broken.map((id) => [id, true]));
  for (const section of new Set(cases.map((id) => id.split('.')[0]))) {
    const own = (all) => Object.fromEntries(Object.entries(all).filter(([id]) => id.split('.')[0] === section));
    const picked = own(results);
    const seconds = Object.values(picked).reduce((sum, { duration }) => sum + duration / 1000, 0);
    const name = `section ${section} over ${scheme}: ${Object.keys(picked).length} cases (${tally(picked)}; ${seconds.toFixed(1)} s)`;
    await t.test(name, () => {
      const wrong = faults(own(direct), picked, { worse: expected.worse, errors });
      assert.equal(wrong.length, 0, wrong.join('\n'));
    });
  }
}

/** Puts TLS around what comes in: kosoku speaks ws only. */
async function startTlsPipe(port) {
  const pipe = net.createServer({ allowHalfOpen: true }, (client) => {
    const upstream = tls.connect({ port, host: '127.0.0.1', rejectUnauthorized: false, allowHalfOpen: true });
    client.on('error', () => upstream.destroy());
    upstream.on('error', () => client.destroy());
    client.pipe(upstream).pipe(client);
  });
  pipe.listen(0, '127.0.0.1');
  await once(pipe, 'listening');
  return pipe;
}

function tally(results) {
  const counts = {};
  for (const { behavior } of Object.values(results)) counts[behavior] = (counts[behavior] ?? 0) + 1;
  return Object.entries(counts)
    .map(([behavior, n]) => `${n} ${behavior}`)
    .join(', ');
}
