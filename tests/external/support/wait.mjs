// Waiting for conditions, never for time: every wait has a bound and says what it waited for.

export const BOUND_MS = 20_000;

/** The value of `promise`, or an error that names `what` after `ms`. */
export async function within(promise, what, ms = BOUND_MS) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`no ${what} within ${ms} ms`)), ms);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

/** Polls until `condition` gives something true, and gives that. */
export async function until(condition, what, ms = BOUND_MS) {
  const end = Date.now() + ms;
  for (;;) {
    const value = await condition();
    if (value) return value;
    if (Date.now() > end) throw new Error(`${what}: not within ${ms} ms`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}
