// How far this device has come in each stream, kept over reloads.
//
// `seq` is the last place received, `acked` the last acknowledged. A page that was
// loaded again has no cards any more, so it resumes from `acked`: what was received but
// not acknowledged comes once more. Within one page it resumes from `seq`.

import { store } from "./dom.js";

export class Positions {
  constructor(user, device) {
    this.key = `positions:${user}/${device}`;
    this.streams = new Map();
    for (const [name, { epoch, seq }] of Object.entries(store.read(this.key, {}))) {
      this.streams.set(name, { epoch, seq, acked: seq, head: seq, followed: false, unsure: true });
    }
  }

  /** What `hello` says of the streams that it is about to follow. */
  resume(topics) {
    const wanted = new Set(["user", "everyone", ...topics.map((topic) => `topic:${topic}`)]);
    const known = [...this.streams].filter(([name, at]) => wanted.has(name) && at.epoch);
    return Object.fromEntries(known.map(([name, { epoch, seq }]) => [name, { epoch, seq }]));
  }

  /** Takes what `welcome` or `subscribed` says of one stream. */
  follow({ stream, epoch, head, from, gap }) {
    const start = from ?? head;
    const known = this.streams.get(stream);
    const fresh = !known || known.epoch !== epoch || gap;
    const at = fresh ? { epoch, seq: start, acked: start, unsure: false } : known;
    at.seq = Math.max(at.seq, start);
    at.head = Math.max(head, at.seq);
    at.followed = true;
    this.streams.set(stream, at);
    this.save();
  }

  /** No stream is followed until the next `welcome` says so. */
  detach() {
    for (const at of this.streams.values()) at.followed = false;
  }

  unfollow(stream) {
    const at = this.streams.get(stream);
    if (at) at.followed = false;
  }

  /** Whether this is new; what is not above the position is a double. */
  accept(stream, seq) {
    const at = this.streams.get(stream) ?? { epoch: null, seq: 0, acked: seq - 1, head: 0, followed: true };
    this.streams.set(stream, at);
    if (seq <= at.seq) return false;
    at.seq = seq;
    at.received = seq;
    at.head = Math.max(at.head, seq);
    return true;
  }

  /** Everything up to `through` was sent or is of no concern to this device. */
  passed(stream, through) {
    const at = this.streams.get(stream);
    if (!at) return;
    at.seq = Math.max(at.seq, through);
    at.head = Math.max(at.head, through);
  }

  /** Retention removed `from..=to`, or the stream began anew: then it goes on after a lower `to`. */
  gap({ stream, epoch, from, to }) {
    const at = this.streams.get(stream);
    if (!at) return;
    const anew = (epoch && epoch !== at.epoch) || to < at.seq;
    if (anew || at.acked >= from - 1) at.acked = to;
    if (anew) Object.assign(at, { epoch: epoch ?? at.epoch, head: to, unsure: false });
    at.seq = to;
    at.head = Math.max(at.head, to);
    this.save();
  }

  /** Marks as acknowledged, to be kept by `save`; false if there was nothing to mark. */
  ack(stream, seq) {
    const at = this.streams.get(stream);
    if (!at || seq <= at.acked) return false;
    at.acked = Math.min(seq, at.seq);
    // An ack has no answer: it may be lost with the connection, and is then sent again.
    at.unsure = true;
    return true;
  }

  /** The last frame that arrived; 0 if none has. */
  received(stream) {
    return this.streams.get(stream)?.received ?? 0;
  }

  /** Acks that an earlier connection may not have carried; `[stream, seq]` each. */
  unsureAcks() {
    const unsure = [...this.streams].filter(([, at]) => at.followed && at.unsure && at.acked > 0);
    return unsure.map(([name, at]) => [name, at.acked]);
  }

  isAcked(stream, seq) {
    return seq <= (this.streams.get(stream)?.acked ?? 0);
  }

  /** Tells seqs of different lives of a stream apart. */
  epoch(stream) {
    return this.streams.get(stream)?.epoch;
  }

  save() {
    const kept = [...this.streams].filter(([, at]) => at.epoch);
    store.write(this.key, Object.fromEntries(kept.map(([name, at]) => [name, { epoch: at.epoch, seq: at.acked }])));
  }
}
