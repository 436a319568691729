// One run of cases with the gateway between, or without it. The program that has the cases stands on one side; on the
// other an echo on npm `ws`. So each leg of the gateway meets a peer that breaks the rules.
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import net from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import tls from 'node:tls';
import { WebSocket } from 'ws';
import { makeCertificate } from '../support/certificate.mjs';
import { startFront } from '../support/front.mjs';
import { startServer } from '../support/servers.mjs';
import { within } from '../support/wait.mjs';
import { PARALLEL, runFuzzingClient, startFuzzingServer } from './engines.mjs';

/**
 * The echo takes what the cases send, and compresses short messages too: kosoku 0.1.0 fails by itself when the answer to a
 * compressed text is not compressed. How well it compresses is no concern of the cases, and most of their time.
 */
const DEFLATE = { threshold: 0, zlibDeflateOptions: { level: 1 } };
const ECHO = { maxFragments: 0, maxPayload: 0 };
const LIMITS = ['frame_bytes_max = "64MiB"', 'message_bytes_max = "64MiB"', 'fragments_max = "off"'];

/**
 * The two sides on which the cases can stand. `run(t, run, cases, ms)` gives the results; a run is
 * `{ name, scheme, lines }`: how the fuzzer's leg is spoken (not at all: there is no gateway), more lines for the route.
 */
export const sides = [
  { name: 'client', title: 'A fuzzing client in front of the gateway', run: withFuzzingClient },
  { name: 'upstream', title: 'A fuzzing server behind the gateway', run: withFuzzingServer },
];

async function withFuzzingClient(t, { name, scheme, lines = [] }, cases, ms) {
  const server = await startServer({ ...ECHO, handleProtocols: undefined, perMessageDeflate: DEFLATE });
  t.after(() => server.stop());
  const run = (url) => runFuzzingClient(url, `client-${name}`, cases, ms);
  if (!scheme) return run(`${server.url}/echo`);
  const front = await startFront([{ path: '/', server: server.url, lines: [...LIMITS, ...lines] }]);
  t.after(() => front.stop());
  const url = new URL(front.url('/echo', scheme));
  if (scheme === 'ws') return run(url.href);
  // kosoku speaks ws only.
  const dial = () => tls.connect({ port: url.port, host: '127.0.0.1', rejectUnauthorized: false, allowHalfOpen: true });
  return run(`ws://127.0.0.1:${await startPipe(t, net.createServer({ allowHalfOpen: true }), dial)}/echo`);
}

async function withFuzzingServer(t, { name, scheme, lines = [] }, cases, ms) {
  const fuzzer = await startFuzzingServer(`upstream-${name}`, cases);
  t.after(() => fuzzer.stop());
  const run = async (url) => {
    await within(echoEveryCase(url), 'last case', ms);
    return fuzzer.results();
  };
  if (!scheme) return run(fuzzer.url);
  const behind = scheme === 'wss' ? await startTlsBefore(t, fuzzer.url) : { server: fuzzer.url };
  const front = await startFront([{ path: '/', ...behind, lines: [...LIMITS, ...lines] }]);
  t.after(() => front.stop());
  return run(front.url(''));
}

/** The client that a fuzzing server wants: it asks how many cases there are, echoes in each, and asks for the report. */
async function echoEveryCase(url) {
  const open = (path) => {
    // It offers what all of section 13 is about.
    const ws = new WebSocket(url + path, { ...ECHO, perMessageDeflate: { ...DEFLATE, clientNoContextTakeover: true } });
    ws.on('error', () => {}); // a part of many cases; `close` follows
    return { ws, closed: new Promise((resolve) => ws.on('close', resolve)) };
  };
  const { ws, closed } = open('/getCaseCount');
  let count;
  ws.on('message', (data) => (count = Number(data)));
  await closed;
  if (!count) throw new Error(`the fuzzing server behind ${url} told no number of cases`);
  let next = 1;
  const work = async () => {
    while (next <= count) {
      const { ws, closed } = open(`/runCase?case=${next++}&agent=echo`);
      ws.on('message', (data, binary) => ws.send(data, { binary }));
      await closed;
    }
  };
  await Promise.all(Array.from({ length: PARALLEL }, work));
  await open('/updateReports?agent=echo&shutdownOnComplete=true').closed;
}

/** TLS in front of the server at `url`: where the gateway dials then, and what it trusts. */
async function startTlsBefore(t, url) {
  const directory = mkdtempSync(join(tmpdir(), 'tidegate-autobahn-'));
  t.after(() => rmSync(directory, { recursive: true, force: true }));
  const { key, cert, file } = makeCertificate(directory);
  const dial = () => net.connect({ port: new URL(url).port, host: '127.0.0.1', allowHalfOpen: true });
  const port = await startPipe(t, tls.createServer({ key, cert, allowHalfOpen: true }), dial);
  return { server: `wss://127.0.0.1:${port}`, ca: file };
}

/** Joins what `listener` accepts to what `dial` opens, byte for byte. Gives its port. */
async function startPipe(t, listener, dial) {
  listener.on(listener instanceof tls.Server ? 'secureConnection' : 'connection', (near) => {
    const far = dial();
    near.on('error', () => far.destroy());
    far.on('error', () => near.destroy());
    near.pipe(far).pipe(near);
  });
  listener.listen(0, '127.0.0.1');
  await once(listener, 'listening');
  t.after(() => listener.close());
  return listener.address().port;
}
