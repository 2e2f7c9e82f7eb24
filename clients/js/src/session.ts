// What frames mean to one tab: positions, deliveries, the unread count, topics. The same whether the frames come
// from a socket of its own or from the tab that holds it; never sends anything.

import { Deliveries } from "./deliveries.js";
import type { Item } from "./deliveries.js";
import { Emitter, FanfareError, Value } from "./events.js";
import type { Count, ServerFrame, StreamStart } from "./protocol.js";
import { Streams } from "./streams.js";
import type { Clock } from "./surroundings.js";

interface Seams {
  clock: Clock;
  random: () => number;
  again: boolean;
  /** A handler of this tab has succeeded with this. */
  handled(item: Item): void;
}

/** The stream of a topic, and the topic of a stream; undefined for the other streams. */
export const streamOf = (topic: string) => `topic:${topic}`;
export const topicOf = (stream: string) => /^topic:(.*)/.exec(stream)?.[1];

export class Session {
  readonly emitter = new Emitter();
  readonly streams = new Streams();
  readonly deliveries: Deliveries;
  /** What this tab wants to follow, each with where to start; and what other tabs want. */
  readonly wanted = new Map<string, number | undefined>();
  readonly elsewhere = new Map<string, string[]>();
  readonly unread = new Value(0);
  version = 0;

  constructor(seams: Seams) {
    this.deliveries = new Deliveries({ ...seams, emitter: this.emitter });
  }

  want(topic: string, since?: number): void {
    this.wanted.set(topic, since);
    const stream = streamOf(topic);
    // Another tab wanted it before.
    if (this.streams.epoch(stream)) this.emitter.emit("subscribed", { stream });
  }

  allTopics(): Set<string> {
    return new Set([...this.wanted.keys(), ...[...this.elsewhere.values()].flat()]);
  }

  frame(frame: ServerFrame): void {
    const { emitter, streams } = this;
    switch (frame.type) {
      case "welcome":
        this.count(frame);
        return frame.streams.forEach((start) => this.#start(start));
      case "subscribed":
        return this.#start(frame);
      case "unsubscribed":
        streams.forget(frame.stream);
        // Not asked for: a newer token no longer allows it.
        if (!frame.id) this.#refused("topic_forbidden", "not allowed", false, topicOf(frame.stream));
        return;
      case "notification": {
        const { stream, seq, read, notification } = frame;
        return this.#take("notification", { ...notification, stream, epoch: streams.epoch(stream), seq, read: !!read });
      }
      case "cancelled":
        return this.#take("cancelled", frame);
      case "gap":
        return this.#take("gap", { ...frame, seq: frame.to });
      case "caught_up":
        return streams.pass(frame.stream, frame.through);
      case "read":
        this.count(frame);
        return emitter.emit("read", frame);
      case "error":
        return this.#refused(frame.code, frame.message, frame.retry, frame.topic);
    }
  }

  /** A handler, here or in another tab, has succeeded with this place. */
  handled(stream: string, epoch: string, seq: number): void {
    this.streams.handled(stream, epoch, seq);
    this.deliveries.settled(stream, epoch, this.streams.acked(stream));
  }

  count({ unread, version }: Count): void {
    if (version < this.version) return;
    this.version = version;
    this.unread.set(unread);
  }

  #start(start: StreamStart): void {
    const { stream, from } = start;
    if (this.streams.follow(start)) this.#take("gap", { stream, seq: from, to: from });
    if (this.wanted.has(topicOf(stream)!)) this.emitter.emit("subscribed", start);
  }

  #take(kind: Item["kind"], event: { stream: string; seq?: number; [more: string]: unknown }): void {
    const { stream, seq } = event;
    const topic = topicOf(stream);
    const mine = !topic || this.wanted.has(topic);
    // Now or never has no place, and a gap up to 0 none that could be acknowledged: they are no doubles.
    if (seq ? this.streams.take(stream, seq, mine) : mine) {
      this.deliveries.push({ kind, stream, epoch: this.streams.epoch(stream), seq, event });
    }
  }

  #refused(code: string, message: string, retry: boolean, topic?: string): void {
    const mine = topic === undefined || this.wanted.delete(topic);
    for (const [tab, topics] of this.elsewhere) this.elsewhere.set(tab, topics.filter((other) => other !== topic));
    if (mine) this.emitter.fail(new FanfareError(code, message, retry, topic));
  }
}
