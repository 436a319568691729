// The Autobahn cases through the gateway, judged against the same peers without it: a fuzzing client in front of the
// gateway, and a fuzzing server behind it.
//
// AUTOBAHN_ALL=1 runs all cases everywhere and writes the table of docs/conformance.md. Without it (CI) it is sections 1
// to 7 and 10, and of 9, 12 and 13 a part: the last two send 1,000 compressed messages in each case.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { direct as withoutGateway } from '../support/front.mjs';
import { engine, whole } from './engines.mjs';
import { sides } from './runs.mjs';
import { writeTables } from './tables.mjs';
import { faults, section, tally } from './verdict.mjs';

const expected = JSON.parse(readFileSync(join(import.meta.dirname, 'expected.json'), 'utf8'));

const CORE = ['1.*', '2.*', '3.*', '4.*', '5.*', '6.*', '7.*', '10.*'];
const ALL = [...CORE, '9.*', '12.*', '13.*'];
/** Each choice of window sizes and context takeover. */
const PARAMETERS = [1, 2, 3, 4, 5, 6, 7].map((offer) => `13.${offer}.4`);
/** 16 B, 1 KiB and 8 KiB messages of each kind of content; some that are sent in fragments. */
const CONTENTS = [1, 2, 3, 4, 5].flatMap((kind) => [1, 4, 6].map((size) => `12.${kind}.${size}`));
const DEFLATE = [...PARAMETERS, ...CONTENTS, '12.1.11', '13.1.11'];
const SAMPLE = { client: [...CORE, '9.*', ...DEFLATE], upstream: [...CORE, ...PARAMETERS] };

const off = ['compression = "off"'];
const RUNS = [
  { name: 'direct' },
  { name: 'ws', scheme: 'ws' },
  { name: 'wss', scheme: 'wss', sample: CORE },
  { name: 'ws, no deflate', scheme: 'ws', lines: off, sample: [...CORE, ...PARAMETERS] },
  { name: 'wss, no deflate', scheme: 'wss', lines: off, sample: PARAMETERS },
];
// What a blind pipe can do.
const runs = withoutGateway ? RUNS.slice(0, 2) : RUNS;

const BOUND_MS = whole ? 3_000_000 : 280_000;
/** By side and run; and, as promises, those without the gateway by side. */
const results = Object.fromEntries(sides.map(({ name }) => [name, {}]));
const baselines = {};

// Two at once: many cases only wait.
describe(`Autobahn by ${engine}`, { concurrency: 2 }, () => {
  for (const side of sides) {
    for (const run of runs) {
      test(`${side.title}: ${run.name}`, async (t) => {
        const cases = whole ? ALL : (run.sample ?? SAMPLE[side.name]);
        const judged = { deflate: !run.lines, worse: expected.worse[`${side.name} ${run.name}`] };
        const outcome = play(t, side, run, cases, judged);
        if (!run.scheme) baselines[side.name] = outcome;
        const { own, direct } = await outcome;
        results[side.name][run.name] = own;
        await judge(t, cases, direct, own, judged);
      });
    }
  }
});

test('the table of docs/conformance.md', { skip: !whole || withoutGateway }, () => {
  writeTables(sides, runs.map(({ name }) => name), results);
});

/** Runs the cases, and those that are at fault once more: some give their peer no more than half a second. */
async function play(t, side, run, cases, judged) {
  const first = await side.run(t, run, cases, BOUND_MS);
  const direct = run.scheme ? (await baselines[side.name]).own : first;
  const again = faults(direct, first, judged).map(({ id }) => id);
  if (!again.length) return { own: first, direct };
  t.diagnostic(`run once more: ${again.join(', ')}`);
  const second = await side.run(t, { ...run, name: `${run.name}, once more` }, again, BOUND_MS);
  return { own: { ...first, ...second }, direct: run.scheme ? direct : { ...first, ...second } };
}

/** One test for each section of `cases`. */
async function judge(t, cases, direct, results, judged) {
  for (const number of new Set(cases.map(section))) {
    const own = Object.fromEntries(Object.entries(results).filter(([id]) => section(id) === number));
    const seconds = Object.values(own).reduce((sum, { duration }) => sum + duration / 1000, 0);
    await t.test(`section ${number}: ${tally(Object.values(own))}; ${seconds.toFixed(1)} s`, () => {
      assert.equal(Object.keys(own).length, countOf(cases, number));
      assert.deepEqual(faults(direct, own, judged).map(({ words }) => words), []);
    });
  }
}

/** How many cases `cases` names in a section. */
function countOf(cases, number) {
  const named = cases.filter((id) => section(id) === number);
  return named.includes(`${number}.*`) ? expected.cases[number] : named.length;
}
