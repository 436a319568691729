// Jupyter's server with a Python kernel and a terminal, through the gateway of docs/recipes/jupyter.md.
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import '../support/any-certificate.mjs';
import { connect } from '../support/client.mjs';
import { startRecipe } from '../support/front.mjs';
import { Process } from '../support/process.mjs';
import { python } from '../support/python.mjs';

const TOKEN = 'let-me-in';

let directory;
let server;
let front;

before(async () => {
  directory = mkdtempSync(join(tmpdir(), 'tidegate-jupyter-'));
  const folders = { JUPYTER_RUNTIME_DIR: directory, JUPYTER_CONFIG_DIR: directory, JUPYTER_DATA_DIR: directory, HOME: directory };
  const options = {
    ip: '127.0.0.1',
    port: 0,
    open_browser: 'False',
    allow_root: 'True',
    root_dir: directory,
    trust_xheaders: 'True',
  };
  const args = Object.entries(options).map(([name, value]) => `--ServerApp.${name}=${value}`);
  server = new Process(python, ['-m', 'jupyter_server', ...args, `--IdentityProvider.token=${TOKEN}`], {
    cwd: directory,
    env: { ...process.env, ...folders },
  });
  const [, port] = await server.line(/http:\/\/127\.0\.0\.1:([1-9]\d*)\//, 60_000);
  front = await startRecipe('jupyter', [`ws://127.0.0.1:${port}`]);
});

after(async () => {
  await front?.stop();
  await server?.stop();
  if (directory) rmSync(directory, { recursive: true, force: true });
});

for (const scheme of ['ws', 'wss']) {
  describe(`Jupyter over ${scheme}`, () => {
    const ask = async (method, path, body) => {
      const answer = await fetch(front.http(path, scheme), {
        method,
        body: body && JSON.stringify(body),
        headers: { Authorization: `token ${TOKEN}` },
        signal: AbortSignal.timeout(30_000),
      });
      assert.ok(answer.ok, `${method} ${path}: ${answer.status} ${await answer.clone().text()}`);
      return answer.status === 204 ? null : answer.json();
    };
    /** A page of the server's own site: it checks `Origin` against `Host`. */
    const session = (path, options) =>
      connect(`${front.url(path, scheme)}?token=${TOKEN}`, { origin: front.http('', scheme), ...options });

    test('a kernel computes', async () => {
      const { id } = await ask('POST', '/api/kernels', { name: 'python3' });
      const client = await session(`/api/kernels/${id}/channels`);
      const header = { msg_id: 'one', msg_type: 'execute_request', username: 'test', session: 's', version: '5.3' };
      const content = { code: 'print("tide", 6 * 7)', silent: false, store_history: false, allow_stdin: false };
      client.send(JSON.stringify({ channel: 'shell', header, parent_header: {}, metadata: {}, content }));
      for (let said = ''; !said.includes('tide 42'); ) {
        const message = JSON.parse(String(await client.next('answer of the kernel')));
        if (message.msg_type === 'error') assert.fail(JSON.stringify(message.content));
        if (message.msg_type === 'stream') said += message.content.text;
      }
      await client.close();
      assert.equal(await ask('DELETE', `/api/kernels/${id}`), null);
    });

    test('a terminal echoes', async () => {
      const { name } = await ask('POST', '/api/terminals');
      const client = await session(`/terminals/websocket/${name}`);
      client.send(JSON.stringify(['stdin', 'echo low-$((40 + 2))-tide\r']));
      for (let said = ''; !said.includes('low-42-tide'); ) {
        const [kind, text] = JSON.parse(await client.next('output of the terminal'));
        if (kind === 'stdout') said += text;
      }
      await client.close();
      assert.equal(await ask('DELETE', `/api/terminals/${name}`), null);
    });

    test('a file is written and read', async () => {
      const file = { type: 'file', format: 'text', content: 'tide '.repeat(100_000) };
      await ask('PUT', '/api/contents/tide.txt', file);
      assert.equal((await ask('GET', '/api/contents/tide.txt')).content, file.content);
    });
  });
}
