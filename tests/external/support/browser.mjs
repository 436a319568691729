// Headless Chromium, driven by playwright-core: a fresh profile each time, and nothing that calls home.
import { chromium } from 'playwright-core';

const QUIET = [
  '--no-sandbox', // tests run as root in containers, where the sandbox cannot start
  '--disable-gpu',
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
];

export function startBrowser() {
  const executablePath = process.env.TIDEGATE_CHROMIUM ?? '/usr/bin/chromium';
  return chromium.launch({ executablePath, headless: true, args: QUIET, timeout: 60_000 });
}

/** A page of its own profile; `faults` collects what went wrong in it, `requests` where it went. */
export async function openPage(browser, url) {
  const context = await browser.newContext({ ignoreHTTPSErrors: true });
  context.setDefaultTimeout(20_000);
  const page = await context.newPage();
  const faults = [];
  const requests = [];
  page.on('pageerror', (error) => faults.push(String(error)));
  page.on('request', (request) => requests.push(request.url()));
  page.on('websocket', (socket) => requests.push(socket.url()));
  await page.goto(url);
  return Object.assign(page, { faults, requests });
}
