// Waiting for what should happen, with a deadline that says what did not.

const DEADLINE_MS = 20_000;

/** The promise's value, or an error that names what was waited for. */
export async function within(promise, what, more = () => "") {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`not within ${DEADLINE_MS} ms: ${what} ${more()}`)), DEADLINE_MS);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

/** Waits until an observable has a value that the test wants. */
export function becomes(observable, wanted, what = String(wanted)) {
  let off = () => {};
  const seen = new Promise((resolve) => {
    off = observable.subscribe((value) => wanted(value) && resolve(value));
  });
  return within(seen, what, () => JSON.stringify(observable.value)).finally(() => off());
}

export const reaches = (fanfare, name) => becomes(fanfare.state, (state) => state.name === name, `the state ${name}`);

/** Asks until the answer is as wanted: for what tells nobody when it changes. */
export function until(ask, what) {
  const asked = (async () => {
    for (;;) {
      const answer = await ask();
      if (answer) return answer;
      await new Promise((again) => setTimeout(again, 20));
    }
  })();
  return within(asked, what);
}

/** Collects events; `count(n)` waits until there are so many, `titles` names them. */
export function gather(fanfare, name = "notification") {
  const events = [];
  const waiting = new Set();
  fanfare.on(name, (event) => {
    events.push(event);
    for (const look of waiting) look();
  });
  const count = (wanted) => {
    let look;
    const there = new Promise((resolve) => {
      look = () => events.length >= wanted && resolve(events);
      waiting.add(look);
      look();
    });
    const what = `${wanted} of ${name}`;
    return within(there, what, () => `; there are ${events.length}`).finally(() => waiting.delete(look));
  };
  return { events, count, titles: () => events.map(({ title }) => title) };
}
