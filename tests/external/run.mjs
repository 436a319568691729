// Runs the external suites and counts: `node run.mjs [node|python|browser|services|autobahn …] [--all]`.
// The last line is `N passed, N failed`; the exit code is 0 only when something passed and nothing failed.
import { existsSync, mkdirSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { run } from 'node:test';
import { spec } from 'node:test/reporters';
import { binary, direct } from './support/front.mjs';

const SUITES = ['node', 'python', 'browser', 'services', 'autobahn'];
/** For a whole file, which Autobahn with --all is far beyond. */
const BOUND_MS = { autobahn: 10_800_000 };

const chosen = process.argv.slice(2).filter((word) => word !== '--all');
const unknown = chosen.filter((word) => !SUITES.includes(word));
if (unknown.length) {
  console.error(`no suite ${unknown.join(', ')}; there are: ${SUITES.join(', ')}`);
  process.exit(2);
}
if (process.argv.includes('--all')) process.env.AUTOBAHN_ALL = '1';
if (!direct && !existsSync(binary)) {
  console.error(`no gateway at ${binary}: build it with \`cargo build\` or name it in TIDEGATE_BIN`);
  process.exit(2);
}

const counts = { passed: 0, failed: 0, skipped: 0 };
for (const suite of chosen.length ? chosen : SUITES) {
  console.log(`\n# ${suite}`);
  const start = Date.now();
  await runSuite(suite);
  console.log(`# ${suite}: ${((Date.now() - start) / 1000).toFixed(1)} s`);
}
if (counts.skipped) console.log(`${counts.skipped} skipped`);
const closing = `${counts.passed} passed, ${counts.failed} failed`;
console.log(closing);
const target = join(import.meta.dirname, '../../target/external');
mkdirSync(target, { recursive: true });
writeFileSync(join(target, 'result'), `${closing}\n`); // for tests/run, whose last line it is
process.exitCode = counts.failed === 0 && counts.passed > 0 ? 0 : 1;

function runSuite(suite) {
  const directory = join(import.meta.dirname, suite);
  const files = readdirSync(directory)
    .filter((name) => name.endsWith('.test.mjs'))
    .map((name) => join(directory, name));
  // One file at a time: the suites share two processors with the gateway that they measure against deadlines.
  const events = run({ files, concurrency: 1, timeout: BOUND_MS[suite] ?? 300_000 });
  // A test with subtests is reported after them: it is their heading, not one more test.
  let deepest = 0;
  const isHeading = ({ nesting }) => {
    const heading = nesting < deepest;
    deepest = nesting;
    return heading;
  };
  events.on('test:pass', (event) => {
    if (isHeading(event)) return;
    counts[event.skip === undefined ? 'passed' : 'skipped'] += 1;
  });
  events.on('test:fail', (event) => {
    // Unless the heading failed by itself, in a hook or by its own assertion.
    if (isHeading(event) && event.details.error?.failureType === 'subtestsFailed') return;
    counts.failed += 1;
  });
  const report = events.compose(new spec());
  report.pipe(process.stdout, { end: false });
  return new Promise((resolve, reject) => report.on('end', resolve).on('error', reject));
}
