// Writes what a whole run gave into docs/conformance.md, between two marks.
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { engineVersion } from './engines.mjs';
import { section, tally, verdict } from './verdict.mjs';

const page = join(import.meta.dirname, '../../../docs/conformance.md');
const packages = join(import.meta.dirname, '../node_modules');
const BEGIN = '<!-- written by `tests/run conformance`: begin -->\n';
const END = '<!-- written by `tests/run conformance`: end -->\n';

/** As Autobahn calls them. */
const SECTIONS = {
  1: 'framing',
  2: 'pings and pongs',
  3: 'reserved bits',
  4: 'opcodes',
  5: 'fragmentation',
  6: 'UTF-8',
  7: 'closing',
  9: 'limits and performance',
  10: 'auto-fragmentation',
  12: 'compression, by content',
  13: 'compression, by parameters',
};

/** `results` by the names of side and run; `runs` are the columns. */
export function writeTables(sides, runs, results) {
  const text = readFileSync(page, 'utf8');
  const [head, rest] = text.split(BEGIN);
  const tail = rest?.split(END)[1];
  if (tail === undefined) throw new Error(`${page} lost the marks between which the tables stand`);
  const body = [preface(), ...sides.map(({ name, title }) => table(title, runs, results[name]))].join('\n');
  writeFileSync(page, `${head}${BEGIN}\n${body}\n${END}${tail}`);
}

function preface() {
  const ws = JSON.parse(readFileSync(join(packages, 'ws/package.json'), 'utf8')).version;
  const date = new Date().toISOString().slice(0, 10);
  return `Last run: ${date}, ${engineVersion()} and an echo on npm \`ws\` ${ws}, Node ${process.version.slice(1)}.\n`;
}

function table(title, runs, results) {
  const ids = Object.keys(results.direct);
  const row = (name, ids) => [name, ids.length, ...runs.map((run) => tally(ids.map((id) => results[run]?.[id])))];
  const rows = Object.entries(SECTIONS).map(([number, name]) =>
    row(`${number} ${name}`, ids.filter((id) => section(id) === number)),
  );
  const line = (cells) => `| ${cells.join(' | ')} |\n`;
  const head = ['section', 'cases', ...runs];
  return [
    `### ${title}\n\n`,
    line(head),
    line(head.map((_, i) => (i === 1 ? '---:' : '---'))),
    ...[...rows, row('all', ids)].map(line),
    `\n${differences(runs, results)}\n`,
  ].join('');
}

/** The cases on which the runs do not agree, but for the compression that was refused. */
function differences(runs, results) {
  const told = Object.keys(results.direct).flatMap((id) => {
    const verdicts = runs.map((run) => verdict(results[run]?.[id]));
    const refused = (i) => runs[i].endsWith('no deflate') && verdicts[i] === 'UNIMPLEMENTED';
    const differ = verdicts.some((word, i) => word !== verdicts[0] && word !== 'NOT RUN' && !refused(i));
    return differ ? [`- ${id}: ${runs.map((run, i) => `${run} ${verdicts[i]}`).join('; ')}`] : [];
  });
  const heading = 'Cases that end otherwise with the gateway than without it';
  return told.length ? `${heading}:\n\n${told.join('\n')}` : `${heading}: none but those that need the refused extension.`;
}
