// What stands between the clients and the servers of a test: the gateway, or nothing at all. The gateway's configuration
// is written for the test, or is the one of a recipe in docs/recipes.
//
// TIDEGATE_FRONT=direct puts a blind pipe in the gateway's place: it proves that clients and servers agree with each
// other, so that whatever fails with the gateway is the gateway's. TIDEGATE_BIN names the gateway's binary.
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import net from 'node:net';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import tls from 'node:tls';
import { once } from 'node:events';
import { makeCertificate } from './certificate.mjs';
import { Process } from './process.mjs';

export const direct = process.env.TIDEGATE_FRONT === 'direct';
export const binary = resolve(process.env.TIDEGATE_BIN ?? join(import.meta.dirname, '../../../target/debug/tidegate'));

/**
 * Starts a front for `routes`: `{ path, server, lines, ca }`, where `server` is a `ws://` URL (or `wss://`, with the file
 * `ca` to trust) and `lines` are further lines of the route's table.
 * `url(path, scheme)` is where a client connects; `ca` of what comes back is what it trusts.
 */
export function startFront(routes, more = '') {
  return start(routes, () => configuration(routes, more));
}

/**
 * Starts a front as docs/recipes/NAME.md says: its first configuration, or the one at `index`, on free ports, before these
 * `servers`. `edit` changes it for what is to be compared.
 */
export function startRecipe(name, servers, { index = 0, edit = (text) => text } = {}) {
  const text = readFileSync(join(import.meta.dirname, `../../../docs/recipes/${name}.md`), 'utf8');
  const recipe = edit([...text.matchAll(/^```toml\n([^]*?)^```/gm)][index][1]);
  const here = [
    [/^address = ".*"/gm, 'address = "127.0.0.1:0"'],
    [/^servers = .*/gm, `servers = ${JSON.stringify(servers)}`],
    [/^tls = .*/gm, 'tls = { certificate = "cert.pem", key = "key.pem", development = true }'],
  ];
  const fitted = here.reduce((text, [what, by]) => {
    if (text.match(what) === null) throw new Error(`${name}: nothing in the recipe matches ${what}`);
    return text.replace(what, by);
  }, recipe);
  return start([{ path: '/', server: servers[0] }], () => fitted);
}

async function start(routes, configuration) {
  const directory = mkdtempSync(join(tmpdir(), 'tidegate-test-'));
  const front = direct ? await startPipes(directory, routes) : await startGateway(directory, configuration());
  return {
    ...front,
    /** Where a client of plain HTTP goes; `scheme` is that of a WebSocket, or `http` or `https`. */
    http: (path, scheme = 'ws') => front.url(path, scheme.replace('http', 'ws')).replace('ws', 'http'),
    async stop() {
      await front.stop();
      rmSync(directory, { recursive: true, force: true });
    },
  };
}

async function startGateway(directory, configuration) {
  const file = join(directory, 'config.toml');
  writeFileSync(file, configuration);
  const gateway = new Process(binary, ['run', '--config', file], { cwd: directory });
  try {
    const [, ws] = await gateway.line(/listening on (ws:\/\/127\.0\.0\.1:\d+)/);
    const [, wss] = await gateway.line(/listening on (wss:\/\/127\.0\.0\.1:\d+)/);
    return {
      url: (path, scheme = 'ws') => (scheme === 'wss' ? wss : ws) + path,
      ca: readFileSync(join(directory, 'cert.pem')),
      caFile: join(directory, 'cert.pem'),
      log: () => gateway.output,
      process: gateway,
      stop: () => gateway.stop(),
    };
  } catch (error) {
    await gateway.stop();
    throw error;
  }
}

function configuration(routes, more) {
  const names = [...new Set(routes.filter((route) => route.server).map((route) => route.server))];
  const trust = (name) =>
    routes.filter(({ server, ca }) => server === name && ca).map(({ ca }) => `tls = { ca = ${JSON.stringify(ca)} }`);
  return [
    '[limits]',
    'sessions = 10000',
    'sessions_per_client = "off"',
    'handshakes_per_client = "off"',
    '[[listener]]',
    'address = "127.0.0.1:0"',
    '[[listener]]',
    'address = "127.0.0.1:0"',
    'tls = { certificate = "cert.pem", key = "key.pem", development = true }',
    more,
    ...names.flatMap((server, i) => [`[upstream.server${i}]`, `servers = [${JSON.stringify(server)}]`, ...trust(server)]),
    ...routes.flatMap((route, i) => [
      '[[route]]',
      `name = "route${i}"`,
      `path = ${JSON.stringify(route.path)}`,
      ...(route.server ? [`upstream = "server${names.indexOf(route.server)}"`] : []),
      ...(route.server ? ['origins = ["same-origin", "none"]'] : []),
      ...(route.lines ?? []),
    ]),
    '',
  ].join('\n');
}

/** A blind pipe for each route and scheme, with a certificate of its own. */
async function startPipes(directory, routes) {
  const credentials = makeCertificate(directory);
  const listeners = [];
  const ports = new Map();
  for (const { path, server } of routes) {
    const target = Number(new URL(server).port);
    const join = (client) => {
      const upstream = net.connect(target, '127.0.0.1');
      client.on('error', () => upstream.destroy());
      upstream.on('error', () => client.destroy());
      client.on('close', () => upstream.end());
      client.pipe(upstream).pipe(client);
    };
    for (const [scheme, listener] of [['ws', net.createServer(join)], ['wss', tls.createServer(credentials, join)]]) {
      listener.on('tlsClientError', () => {});
      listener.listen(0, '127.0.0.1');
      await once(listener, 'listening');
      listeners.push(listener);
      ports.set(`${scheme}:${path}`, listener.address().port);
    }
  }
  const portOf = (path, scheme) => {
    const route = routes
      .filter((route) => path === route.path || path.startsWith(route.path === '/' ? '/' : `${route.path}/`))
      .sort((a, b) => b.path.length - a.path.length)[0];
    return ports.get(`${scheme}:${route.path}`);
  };
  return {
    url: (path, scheme = 'ws') => `${scheme}://127.0.0.1:${portOf(path || '/', scheme)}${path}`,
    ca: credentials.cert,
    caFile: credentials.file,
    log: () => '',
    stop: () => listeners.forEach((listener) => listener.close()),
  };
}
