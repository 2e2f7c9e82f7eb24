// A clock that only moves when told, and sockets whose server is the test. Owns no real time and no network.

import { Fanfare } from "../../dist/index.js";

export class FakeClock {
  #now = 1_800_000_000_000;
  #timers = new Map();
  #next = 1;

  now() {
    return this.#now;
  }

  setTimeout(run, ms) {
    this.#timers.set(this.#next, { at: this.#now + ms, run });
    return this.#next++;
  }

  clearTimeout(timer) {
    this.#timers.delete(timer);
  }

  /** Moves on, and lets every timer run that is due by then, in its order. */
  async advance(ms) {
    const end = this.#now + ms;
    for (;;) {
      await settle();
      const due = [...this.#timers].filter(([, timer]) => timer.at <= end).sort(([, a], [, b]) => a.at - b.at)[0];
      if (!due) break;
      this.#timers.delete(due[0]);
      this.#now = Math.max(this.#now, due[1].at);
      due[1].run();
    }
    this.#now = end;
    await settle();
  }
}

/** Lets everything run that waits for nothing but its turn. */
export async function settle() {
  for (let turn = 0; turn < 30; turn++) await Promise.resolve();
}

/** A socket class of which each instance is kept in `sockets`. */
export function socketClass(sockets) {
  return class {
    constructor(url, protocols) {
      Object.assign(this, { url, protocols, frames: [], closedWith: undefined });
      sockets.push(this);
    }

    send(text) {
      this.frames.push(JSON.parse(text));
    }

    close(code) {
      this.closedWith = code;
    }

    /** The server speaks. */
    async say(...frames) {
      for (const frame of frames) this.onmessage?.({ data: JSON.stringify(frame) });
      await settle();
    }

    /** The server, or the network, ends it. */
    async end(code, reason = "") {
      this.onclose?.({ code, reason });
      await settle();
    }

    /** What the client has sent of a type. */
    sent(type) {
      return this.frames.filter((frame) => frame.type === type);
    }
  };
}

export const EPOCH = "k1";

export function welcome({ heads = {}, from = heads, epoch = EPOCH, gap = false, clock, ...others } = {}) {
  const start = (stream) => ({ stream, epoch, head: heads[stream] ?? 0, from: from[stream] ?? 0, gap });
  const time = new Date(clock?.now() ?? 1_800_000_000_000).toISOString();
  const streams = ["user", "everyone"].map(start);
  const about = { connection: "0000000000000001", node: "n1", user: "alice", device: "web-1", degraded: false };
  return { type: "welcome", ...about, time, heartbeat_ms: 25_000, unread: 0, version: 0, streams, ...others };
}

export function notification(seq, stream = "user", content = {}) {
  return { type: "notification", stream, seq, notification: { id: `id-${stream}-${seq}`, title: `n${seq}`, ...content } };
}

/** A token whose times can be read; nobody checks its signature here. */
export function token(claims = {}) {
  const part = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
  return `${part({ alg: "none" })}.${part({ sub: "alice", ...claims })}.x`;
}

/** A client with a scripted server. `last()` is the newest socket; `live()` connects and says welcome. */
export function scripted(options = {}) {
  const clock = new FakeClock();
  const sockets = [];
  const last = () => sockets.at(-1);
  const chance = { value: 0.5 };
  const fanfare = new Fanfare({
    url: "https://push.example.com/",
    token: () => token(),
    device: "web-1",
    WebSocket: socketClass(sockets),
    fetch: async () => new Response("{}", { status: 503 }),
    clock,
    random: () => chance.value,
    ...options,
  });
  const open = async () => {
    await settle();
    last().onopen();
    await settle();
    return last();
  };
  const live = async (about = {}) => {
    const socket = await open();
    await socket.say(welcome({ clock, ...about }));
    return socket;
  };
  return { fanfare, clock, sockets, last, chance, open, live };
}

/** Collects the events of a name. */
export function collect(fanfare, name) {
  const events = [];
  fanfare.on(name, (event) => void events.push(event));
  return events;
}
