// How far this device has come in each stream: what is acknowledged, what is on its way to a handler.
// Pure, and the same in every tab, so that any of them can go on where another one stopped.
//
// A place above `acked` is *offered* (to this tab's handlers), *elsewhere* (only another tab has it) or
// *handled*. `acked` moves over places that are handled and never passes one that is not: whoever connects next
// resumes from there, gets the rest once more, and what this tab was offered already is dropped as a double.

import type { Position, StreamStart } from "./protocol.js";

const ELSEWHERE = 0;
const OFFERED = 1;
const HANDLED = 2;

interface Stream {
  epoch: string;
  acked: number;
  /** Up to here nothing is missing but what has a mark. */
  through: number;
  /** By place, in the order of the stream. */
  marks: Map<number, number>;
}

/** Streams as tabs tell them to each other, and as they are kept: name, epoch, acked, through, open places. */
export type Standing = [string, string, number, number, number[]];

export class Streams {
  #streams = new Map<string, Stream>();

  /** Takes what `welcome` or `subscribed` says; true if what was known before does not go on. */
  follow({ stream, epoch, from, gap }: StreamStart): boolean {
    const known = this.#streams.get(stream);
    if (known?.epoch === epoch && !gap) return false;
    const anew = gap || !!known;
    // A gap is told again until it is acknowledged: so its end is a place that is open until somebody was told.
    const acked = anew && from ? from - 1 : from;
    this.#streams.set(stream, { epoch, acked, through: acked, marks: new Map() });
    return anew;
  }

  forget(stream: string): void {
    this.#streams.delete(stream);
  }

  epoch(stream: string): string {
    return this.#streams.get(stream)?.epoch ?? "";
  }

  /** Notes what has arrived; false if it is not for this tab's handlers: a double, or another tab's. */
  take(stream: string, seq: number, mine: boolean): boolean {
    const at = this.#streams.get(stream);
    if (!at) return false;
    const { marks, acked, through } = at;
    if (marks.get(seq) ?? seq <= (marks.size ? acked : Math.max(acked, through))) return false;
    marks.set(seq, mine ? OFFERED : ELSEWHERE);
    at.through = Math.max(through, seq);
    return mine;
  }

  /** The server has sent everything up to `through`. */
  pass(stream: string, through: number): void {
    const at = this.#streams.get(stream);
    if (at) at.through = Math.max(at.through, through);
  }

  /** A handler, here or in another tab, has succeeded with this place. */
  handled(stream: string, epoch: string, seq: number): void {
    const at = this.#streams.get(stream);
    if (at?.epoch !== epoch || !at.marks.has(seq)) return;
    const { marks } = at;
    marks.set(seq, HANDLED);
    for (const place of [...marks.keys()].sort((one, other) => one - other)) {
      if (marks.get(place) !== HANDLED) break;
      at.acked = place;
      marks.delete(place);
    }
  }

  /** The places that no handler has succeeded with. */
  open(stream: string): number[] {
    const marks = [...(this.#streams.get(stream)?.marks ?? [])];
    return marks.filter(([, mark]) => mark !== HANDLED).map(([place]) => place);
  }

  /** Up to where everything is handled: what may be acknowledged. */
  acked(stream: string): number {
    return this.#streams.get(stream)?.acked ?? 0;
  }

  /** Where the next connection goes on. */
  position(stream: string): Position | undefined {
    const at = this.#streams.get(stream);
    return at && { epoch: at.epoch, seq: at.marks.size ? at.acked : Math.max(at.acked, at.through) };
  }

  standings(): Standing[] {
    return [...this.#streams].map(([name, at]) => [name, at.epoch, at.acked, at.through, this.open(name)]);
  }

  /** Takes another's word for streams that this tab knows nothing of. */
  adopt(standings: Standing[]): void {
    for (const [stream, epoch, acked, through, open] of standings) {
      const marks = new Map(open.map((place) => [place, ELSEWHERE]));
      if (this.epoch(stream) !== epoch) this.#streams.set(stream, { epoch, acked, through, marks });
    }
  }
}
