// Judges the results with the gateway against those without: plain values in, sentences out.

const BEHAVIOR = { OK: 0, INFORMATIONAL: 0, 'NON-STRICT': 1, UNIMPLEMENTED: 2 };
const CLOSE = { OK: 0, INFORMATIONAL: 0 };
const WORST = 3;

const rank = ({ behavior, behaviorClose }) => Math.max(BEHAVIOR[behavior] ?? WORST, CLOSE[behaviorClose] ?? WORST);
const words = ({ behavior, behaviorClose }) => `${behavior}, close ${behaviorClose}`;

/** What is wrong with the cases of one section; nothing when the gateway is as good as no gateway. */
export function faults(direct, gateway, { worse = {}, errors = {} }) {
  return Object.keys(direct).flatMap((id) => {
    const [before, after] = [direct[id], gateway[id]];
    if (!after) return [`${id}: not run through the gateway`];
    if (before.behavior === 'ERROR' && after.behavior === 'ERROR' && errors[id]) return [];
    if (rank(after) === WORST) return [`${id}: ${words(after)} (without the gateway: ${words(before)})`];
    const allowed = worse[id] ? rank({ behavior: worse[id].behavior, behaviorClose: 'OK' }) : rank(before);
    if (rank(after) > allowed) return [`${id}: ${words(after)}, worse than without the gateway: ${words(before)}`];
    return [];
  });
}
