// Two programs that run the Autobahn cases: the original suite on Python 2.7, where tests/run found one, as a client; and
// kosoku on Python 3, as a client or as a server. Both write the same index.json. The original sees more of how connections end;
// kosoku needs minutes for what takes the original hours, so it is the one for a whole run.
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { freePort, listening } from '../support/ports.mjs';
import { Process } from '../support/process.mjs';
import { python } from '../support/python.mjs';
import { within } from '../support/wait.mjs';

const target = resolve(import.meta.dirname, '../../../target/external');
const packages = join(target, 'python2');

const installed = existsSync(join(packages, 'autobahntestsuite'));
/** Whether all cases are to be run. */
export const whole = process.env.AUTOBAHN_ALL === '1';
/** `original` or `kosoku`; AUTOBAHN_ENGINE decides, else what suits. */
export const engine = process.env.AUTOBAHN_ENGINE ?? (installed && !whole ? 'original' : 'kosoku');
/** Cases at once; the original suite's client takes one after the other. */
export const PARALLEL = 2;
const isOriginal = engine === 'original';

/** Its name and version, as they are pinned. */
export function engineVersion() {
  const [file, name] = isOriginal
    ? ['requirements-python2.txt', 'autobahntestsuite']
    : ['../requirements.txt', 'kosoku'];
  return readFileSync(join(import.meta.dirname, file), 'utf8').match(`${name}==(\\S+)`)[0].replace('==', ' ');
}

/** Runs `cases` (ids and `9.*`) against the server at `url`. Gives `{ '1.1.1': { behavior, behaviorClose, … } }`. */
export async function runFuzzingClient(url, name, cases, ms) {
  const outdir = freshDirectory(name);
  const agent = name.replaceAll(/\W/g, '-');
  const program = isOriginal
    ? original({ outdir, servers: [{ url, agent }], cases })
    : kosoku('fuzzingclient', outdir, ['-p', `${PARALLEL}`], cases, url);
  return report(program, outdir, ms);
}

/**
 * Serves `cases` at `url`, for clients as they are written for Autobahn. `results()` are those of the client that has just
 * asked for the report. By kosoku in any case: the original's server told some clients that came through the gateway no
 * number of cases, and why is not known.
 */
export async function startFuzzingServer(name, cases) {
  const outdir = freshDirectory(name);
  const port = await freePort();
  const address = `127.0.0.1:${port}`;
  const url = `ws://${address}`;
  const program = kosoku('fuzzingserver', outdir, [], cases, address);
  try {
    await listening(port);
  } catch (error) {
    await program.stop();
    throw new Error(`${error.message}\n${program.output}`);
  }
  return { url, results: () => report(program, outdir), stop: () => program.stop() };
}

function freshDirectory(name) {
  const outdir = join(target, 'autobahn', engine, name);
  rmSync(outdir, { recursive: true, force: true });
  mkdirSync(outdir, { recursive: true });
  return outdir;
}

/** What it wrote when it ended by itself. */
async function report(program, outdir, ms) {
  let end;
  try {
    end = await within(program.ended, `end of ${engine}`, ms);
  } finally {
    await program.stop();
  }
  const index = join(outdir, 'index.json');
  // kosoku's exit code says that a case failed, which is for the comparison to judge.
  if (!existsSync(index)) throw new Error(`${engine} wrote no report (${JSON.stringify(end)}):\n${program.output}`);
  return Object.values(JSON.parse(readFileSync(index, 'utf8')))[0];
}

function original(spec) {
  const file = join(spec.outdir, 'spec.json');
  writeFileSync(file, JSON.stringify({ ...spec, 'exclude-cases': [], 'exclude-agent-cases': {} }));
  const python2 = readFileSync(join(packages, 'python'), 'utf8').trim();
  const start = [
    // The directory holds namespace packages, which only a site directory makes visible.
    `import site; site.addsitedir(${JSON.stringify(packages)})`,
    'from autobahntestsuite.wstest import run; run()',
  ].join('; ');
  return new Process(python2, ['-u', '-c', start, '-m', 'fuzzingclient', '-s', file], { cwd: spec.outdir });
}

function kosoku(mode, outdir, options, cases, address) {
  const chosen = cases.flatMap((id) => ['-i', id]);
  return new Process(join(python, '../kosoku'), ['-m', mode, '-o', outdir, ...options, ...chosen, address]);
}
