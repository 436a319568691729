// Two programs that run the Autobahn cases against a server: the original suite on Python 2.7, where tests/run found
// one, and kosoku on Python 3. Both write the same index.json.
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { Process } from '../support/process.mjs';
import { python } from '../support/python.mjs';
import { within } from '../support/wait.mjs';

const target = resolve(import.meta.dirname, '../../../target/external');
const packages = join(target, 'python2');

/** `original` or `kosoku`; AUTOBAHN_ENGINE decides, else what is installed. */
export const engine = process.env.AUTOBAHN_ENGINE ?? (existsSync(join(packages, 'autobahntestsuite')) ? 'original' : 'kosoku');

/** Runs `cases` (ids and `9.*`) against the server at `url`. Gives `{ '1.1.1': { behavior, behaviorClose, … } }`. */
export async function runCases(url, name, cases, ms) {
  const outdir = join(target, 'autobahn', engine, name);
  rmSync(outdir, { recursive: true, force: true });
  mkdirSync(outdir, { recursive: true });
  const process = engine === 'original' ? original(url, name, cases, outdir) : kosoku(url, cases, outdir);
  let end;
  try {
    end = await within(process.ended, `end of ${engine}`, ms);
  } finally {
    await process.stop();
  }
  const index = join(outdir, 'index.json');
  // kosoku's exit code says that a case failed, which is for the comparison to judge.
  if (!existsSync(index)) throw new Error(`${engine} wrote no report (${JSON.stringify(end)}):\n${process.output}`);
  return Object.values(JSON.parse(readFileSync(index, 'utf8')))[0];
}

function original(url, agent, cases, outdir) {
  const spec = join(outdir, 'spec.json');
  const none = { 'exclude-cases': [], 'exclude-agent-cases': {} };
  writeFileSync(spec, JSON.stringify({ outdir, servers: [{ url, agent }], cases, ...none }));
  const python2 = readFileSync(join(packages, 'python'), 'utf8').trim();
  const start = [
    // The directory holds namespace packages, which only a site directory makes visible.
    `import site; site.addsitedir(${JSON.stringify(packages)})`,
    'from autobahntestsuite.wstest import run; run()',
  ].join('; ');
  return new Process(python2, ['-c', start, '-m', 'fuzzingclient', '-s', spec], { cwd: outdir });
}

function kosoku(url, cases, outdir) {
  const program = join(python, '../kosoku');
  const chosen = cases.flatMap((id) => ['-i', id]);
  return new Process(program, ['-m', 'fuzzingclient', '-p', '4', '-o', outdir, ...chosen, url]);
}
