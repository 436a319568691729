// Judges the results with the gateway against those without: plain values in, sentences out.

const BEHAVIOR = { OK: 0, INFORMATIONAL: 0, 'NON-STRICT': 1, UNIMPLEMENTED: 2 };
const CLOSE = ['OK', 'INFORMATIONAL'];
const WORST = 3;
/** The sections about permessage-deflate: UNIMPLEMENTED wherever the extension is refused. */
const COMPRESSION = ['12', '13'];

export const section = (id) => id.split('.')[0];
/** The verdict on a case in one word: that of its messages, and FAILED when it was not closed as it should be. */
export function verdict(result) {
  if (!result) return 'NOT RUN';
  return CLOSE.includes(result.behaviorClose) ? result.behavior : 'FAILED';
}

/** How many results there are of each verdict, in words. */
export function tally(results) {
  const counts = new Map();
  for (const word of results.map(verdict)) counts.set(word, (counts.get(word) ?? 0) + 1);
  return [...counts].map(([word, n]) => `${n} ${word}`).join(', ');
}

const rank = (word) => BEHAVIOR[word] ?? WORST;
const words = ({ behavior, behaviorClose }) => `${behavior}, close ${behaviorClose}`;

/**
 * Which cases of a run are at fault, `{ id, words }`; none when the gateway is as good as no gateway. `deflate` says whether the
 * extension may be agreed on; `worse` are the verdicts that are expected, by case.
 */
export function faults(direct, gateway, { deflate = true, worse = {} } = {}) {
  return Object.keys(gateway).flatMap((id) => {
    const [before, after] = [verdict(direct[id]), verdict(gateway[id])];
    const refused = !deflate && COMPRESSION.includes(section(id));
    const fault = (why = '') => {
      return [{ id, words: `${id}: ${words(gateway[id])} (without the gateway: ${words(direct[id])})${why}` }];
    };
    if (refused) return after === 'UNIMPLEMENTED' ? [] : fault(': there is no permessage-deflate here');
    if (worse[id] && rank(after) <= rank(before)) return fault(': no longer worse, take it out of expected.json');
    const allowed = worse[id]?.behavior ?? before;
    return rank(after) === WORST || rank(after) > rank(allowed) ? fault() : [];
  });
}
