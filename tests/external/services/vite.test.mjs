// Vite's dev server with its hot reload, in Chromium, through the gateway of docs/recipes/vite.md.
import assert from 'node:assert/strict';
import { mkdtempSync, realpathSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { createServer } from 'vite';
import { openPage, startBrowser } from '../support/browser.mjs';
import { startRecipe } from '../support/front.mjs';
import { until } from '../support/wait.mjs';

let directory;
let vite;
let front;
let browser;

const write = (name, text) => writeFileSync(join(directory, name), text);
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const greeting = (words) => `export const words = ${JSON.stringify(words)};`;

before(async () => {
  directory = realpathSync(mkdtempSync(join(tmpdir(), 'tidegate-vite-')));
  write('index.html', '<!doctype html><title>app</title><p id=words></p><script type=module src=/main.js></script>');
  write('main.js', `
    import { words } from './greeting.js';
    import './style.css';
    const show = (words) => (document.querySelector('#words').textContent = words);
    show(words);
    window.loaded = Math.random();
    import.meta.hot.accept('./greeting.js', (now) => show(now.words));`);
  write('greeting.js', greeting('low tide'));
  write('style.css', '#words { color: rgb(1, 2, 3) }');
  vite = await createServer({
    root: directory,
    configFile: false,
    logLevel: 'silent',
    server: { host: '127.0.0.1', port: 0, watch: { usePolling: true, interval: 50 } },
  });
  await vite.listen();
  front = await startRecipe('vite', [`ws://127.0.0.1:${vite.httpServer.address().port}`]);
  browser = await startBrowser();
});

after(async () => {
  await browser?.close();
  await front?.stop();
  await vite?.close();
  if (directory) rmSync(directory, { recursive: true, force: true });
});

describe('Vite in Chromium', () => {
  for (const scheme of ['ws', 'wss']) {
    test(`what is edited is there at once, and the page is not loaded again, over ${scheme}`, async () => {
      write('greeting.js', greeting('low tide'));
      write('style.css', '#words { color: rgb(1, 2, 3) }');
      const page = await openPage(browser, front.http('/', scheme));
      const shows = (words) => page.locator('#words').getByText(words, { exact: true }).waitFor();
      const sockets = () => page.requests.filter((url) => url.startsWith('ws'));
      const { host } = new URL(front.url('/', scheme));
      await page.locator('#words').getByText(/tide/).waitFor();
      const socket = await until(() => sockets()[0], 'WebSocket of the page');
      assert.equal(new URL(socket).host, host);
      const loaded = await page.evaluate('window.loaded');
      for (const words of ['rising tide', 'high tide']) {
        // chokidar, Vite's watcher, drops for good what changes again within 50 ms.
        await pause(200);
        write('greeting.js', greeting(words));
        await shows(words);
      }
      write('style.css', '#words { color: rgb(4, 5, 6) }');
      const color = () => page.locator('#words').evaluate((words) => getComputedStyle(words).color);
      await until(async () => (await color()) === 'rgb(4, 5, 6)', 'the new style');
      assert.equal(await page.evaluate('window.loaded'), loaded, 'it was loaded again');
      assert.deepEqual(new Set(page.requests.filter((url) => !url.startsWith('data:')).map((url) => new URL(url).host)), new Set([host]));
      assert.deepEqual(page.faults, []);
      await page.context().close();
    });
  }
});
