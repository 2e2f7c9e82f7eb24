// Hands what has arrived to the handlers: in the order of each stream, one at a time, until they succeed.
// Owns the queues. What has no handler waits; the server's window bounds how much that can be.

import { FanfareError } from "./events.js";
import type { Emitter } from "./events.js";
import { backoffMs } from "./protocol.js";
import { pause } from "./surroundings.js";
import type { Clock } from "./surroundings.js";

/** Something with a place in a stream (none for what is now or never). */
export interface Item {
  kind: "notification" | "cancelled" | "gap";
  stream: string;
  epoch: string;
  seq?: number;
  event: unknown;
}

interface Seams {
  clock: Clock;
  random: () => number;
  emitter: Emitter;
  /** Whether what a handler throws is tried again; else the application acknowledges by hand. */
  again: boolean;
  handled(item: Item): void;
}

/** Attempts never follow each other in a tight loop. */
const PAUSE_MS = 250;
/** What an iterator rejects with when its loop is left: no failure, but not handled either. */
export const LEFT = Symbol();

export class Deliveries {
  #seams: Seams;
  #queues = new Map<string, Item[]>();
  #busy = new Set<string>();

  constructor(seams: Seams) {
    this.#seams = seams;
  }

  push(item: Item): void {
    const { stream, kind, seq } = item;
    // Now or never: it waits for nothing and nobody.
    if (!seq && kind === "notification") return void this.#call(item);
    this.#queues.set(stream, [...(this.#queues.get(stream) ?? []), item]);
    this.#work(stream);
  }

  /** Goes on where there was nobody to hand things to. */
  resume(): void {
    for (const stream of this.#queues.keys()) this.#work(stream);
  }

  /** Another tab has handled everything up to `acked`: what nobody waits for here need not be kept. */
  settled(stream: string, epoch: string, acked: number): void {
    const queue = this.#queues.get(stream);
    if (!queue || this.#seams.emitter.of("notification")[0]) return;
    this.#queues.set(stream, queue.filter((item) => item.epoch === epoch && item.seq! > acked));
  }

  close(): void {
    this.#queues.clear();
  }

  async #work(stream: string): Promise<void> {
    if (this.#busy.has(stream)) return;
    this.#busy.add(stream);
    const { clock, random, emitter, again, handled } = this.#seams;
    let item: Item | undefined;
    for (let attempt = 0; (item = this.#queues.get(stream)?.[0]); ) {
      if (item.kind === "notification" && !emitter.of(item.kind)[0]) break;
      const well = await this.#call(item);
      const queue = this.#queues.get(stream) ?? [];
      if (queue[0] !== item) continue;
      if (well || !again) {
        queue.shift();
        attempt = 0;
        handled(item);
      } else await pause(clock, PAUSE_MS + backoffMs(attempt++, random));
    }
    this.#busy.delete(stream);
  }

  /** Whether all handlers succeeded. */
  async #call({ kind, event }: Item): Promise<boolean> {
    const { emitter } = this.#seams;
    const call = async (listener: (event: unknown) => unknown) => {
      try {
        await listener(event);
        return true;
      } catch (error) {
        if (error !== LEFT) emitter.fail(new FanfareError("handler_failed", `${error}`, true, error));
        return false;
      }
    };
    return (await Promise.all(emitter.of(kind).map(call))).every((well) => well);
  }
}
