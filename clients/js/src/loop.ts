// Notifications as an async iterator: one is handled when the loop asks for the next. Owns what waits for the loop.

import type { State } from "./connection.js";
import { LEFT } from "./deliveries.js";
import { FanfareError } from "./events.js";
import type { Fanfare } from "./fanfare.js";
import type { Notification } from "./http.js";

export async function* loop<Data>(fanfare: Fanfare<Data>): AsyncGenerator<Notification<Data>, void, undefined> {
  const waiting: { event: Notification<Data>; done: () => void; left: (why: unknown) => void }[] = [];
  let go = () => {};
  let state!: State;
  const unwatch = fanfare.state.subscribe((now) => {
    state = now;
    go();
  });
  const off = fanfare.on("notification", (event) => {
    return new Promise<void>((done, left) => {
      waiting.push({ event, done, left });
      go();
    });
  });
  try {
    while (state.name !== "closed") {
      const [first] = waiting;
      if (first) {
        yield first.event;
        waiting.shift();
        first.done();
      } else if (state.name === "stopped") throw new FanfareError("stopped", `${state.code} ${state.reason}`);
      else await new Promise<void>((resolve) => (go = resolve));
    }
  } finally {
    off();
    unwatch();
    for (const { left } of waiting) left(LEFT);
  }
}
