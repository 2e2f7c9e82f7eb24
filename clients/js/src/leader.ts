// What only the tab that holds the socket does: says hello, acknowledges, follows topics, refreshes the token, has the
// unread counted. Owns the connection; never decides what is handled.

import { Connection } from "./connection.js";
import type { State } from "./connection.js";
import type { Http } from "./http.js";
import type { ClientFrame, Count, ErrorFrame, Position, ServerFrame, Welcome } from "./protocol.js";
import { streamOf, topicOf } from "./session.js";
import type { Session } from "./session.js";
import type { Clock } from "./surroundings.js";
import type { Tokens } from "./token.js";
import type { Transport } from "./transport.js";

export interface LeaderSeams {
  clock: Clock;
  random: () => number;
  transport: Transport;
  session: Session;
  tokens: Tokens;
  http: Http;
  device?: string;
  onFrame(frame: ServerFrame): void;
  onCount(count: Count): void;
  onState(state: State): void;
  /** Positions may have moved. */
  onMoved(): void;
}

/** Acknowledgements are cumulative, so those of one moment go as one frame for each stream. */
const LINGER_MS = 40;
/** A crowd that got the same news does not ask for its counts at once; nor again for topics. */
const SOON_MS = 1_000;
/** Before the token runs out; of a short life the last fifth. */
const REFRESH_MS = 60_000;
/** Longer delays would fire at once. */
const LONGEST_MS = 2 ** 31 - 1;
/** Stands for what is acknowledged of a stream that was asked for and not answered yet. */
const ASKED = Infinity;

export class Leader {
  readonly connection: Connection;
  #seams: LeaderSeams;
  #timers = new Map<unknown, unknown>();
  #id = 0;
  /** The streams that were asked for, by the id of the frame. */
  #requests = new Map<number, string>();
  /** Up to where the streams that are followed are acknowledged on this connection. */
  #sent = new Map<string, number>();
  #head = 0;
  #token = "";

  constructor(seams: LeaderSeams) {
    this.#seams = seams;
    this.connection = new Connection({
      ...seams,
      hello: (renew) => this.#hello(renew),
      onFrame: (frame) => this.#frame(frame),
      onState: (state) => {
        this.#clear();
        seams.onState(state);
      },
    });
  }

  /** Something has been handled: it is acknowledged in a moment. */
  acknowledge(): void {
    this.#later(this.flush, LINGER_MS);
  }

  /** Follows what the tabs want and leaves the rest. */
  follow = (): void => {
    const { session, device } = this.#seams;
    const topics = session.allTopics();
    for (const topic of topics) {
      const stream = streamOf(topic);
      // A device goes on at its cursor; without one only we know where we were.
      const since = session.wanted.get(topic) ?? (device ? undefined : session.streams.position(stream)?.seq);
      if (!this.#sent.has(stream)) this.#ask({ type: "subscribe", topic, since }, stream);
    }
    for (const stream of this.#sent.keys()) {
      const topic = topicOf(stream);
      if (topic && !topics.has(topic)) this.#ask({ type: "unsubscribe", topic }, stream);
    }
  };

  /** Says what is handled. */
  flush = (): void => {
    const { session, onMoved } = this.#seams;
    for (const [stream, sent] of this.#sent) {
      const seq = session.streams.acked(stream);
      if (seq > sent && this.connection.send({ type: "ack", stream, seq })) this.#sent.set(stream, seq);
    }
    onMoved();
  };

  stop(): void {
    this.#clear();
    this.connection.stop();
  }

  /** Topics are not among it: one that the token does not allow would have the whole hello refused. */
  async #hello(renew: boolean): Promise<ClientFrame> {
    const { tokens, session, device } = this.#seams;
    this.#token = await (renew ? tokens.renew() : tokens.get());
    const resume: Record<string, Position | undefined> = {};
    for (const stream of ["user", "everyone"]) resume[stream] = session.streams.position(stream);
    return { type: "hello", token: this.#token, device, resume, ping: true };
  }

  #frame(frame: ServerFrame): void {
    const { type } = frame;
    if (type === "welcome") this.#welcome(frame);
    else if (type === "error" && this.#refused(frame)) return;
    if (type === "subscribed") this.#sent.set(frame.stream, 0);
    if (type === "unsubscribed" && !frame.id) this.#sent.delete(frame.stream);
    if ("id" in frame) this.#requests.delete(frame.id as number);
    this.#seams.onFrame(frame);
    if (type === "welcome") this.follow();
    // What was acknowledged before may not have arrived.
    this.acknowledge();
    if (type === "refreshed") this.#refreshLater();
    if ((type === "notification" || type === "cancelled") && frame.stream === "user" && frame.seq! > this.#head) {
      this.#later(this.#count, SOON_MS * this.#seams.random());
    }
  }

  #welcome({ streams, time }: Welcome): void {
    const { clock, tokens } = this.#seams;
    tokens.skewMs = Date.parse(time) - clock.now();
    this.#sent = new Map(streams.map(({ stream }) => [stream, 0]));
    this.#requests.clear();
    // What was there then is counted in `unread`.
    this.#head = streams.find(({ stream }) => stream === "user")?.head ?? 0;
    this.#refreshLater();
  }

  /** Puts a name to an error; true if it is to be tried again without a word. */
  #refused(frame: ErrorFrame): boolean {
    const { id, retry } = frame;
    const stream = this.#requests.get(id!);
    if (stream) {
      this.#sent.delete(stream);
      frame.topic = topicOf(stream);
      if (retry) this.#later(this.follow, SOON_MS);
    } else if (retry) this.#refreshLater();
    return retry && stream !== undefined;
  }

  #refreshLater(): void {
    const left = this.#seams.tokens.leftMs(this.#token);
    const delay = Math.max(left - REFRESH_MS, left * 0.8, SOON_MS);
    if (delay < LONGEST_MS) this.#later(this.#refresh, delay);
  }

  #refresh = async (): Promise<void> => {
    try {
      const token = await this.#seams.tokens.renew();
      if (this.#ask({ type: "refresh", token }, "")) this.#token = token;
    } catch {
      // The rest of the token's life is left to try again.
      this.#refreshLater();
    }
  };

  /** If it fails, the next frame or connection counts again. */
  #count = (): void => {
    const { http, onCount } = this.#seams;
    http.count().then(onCount, () => {});
  };

  /** Once, however often it is said before it is due. */
  #later(run: () => void, ms: number): void {
    if (this.#timers.has(run)) return;
    const due = () => {
      this.#timers.delete(run);
      run();
    };
    this.#timers.set(run, this.#seams.clock.setTimeout(due, ms));
  }

  #clear(): void {
    for (const timer of this.#timers.values()) this.#seams.clock.clearTimeout(timer);
    this.#timers.clear();
  }

  #ask(frame: ClientFrame, stream: string): boolean {
    const id = ++this.#id;
    if (!this.connection.send({ ...frame, id } as ClientFrame)) return false;
    this.#requests.set(id, stream);
    if (frame.type === "subscribe") this.#sent.set(stream, ASKED);
    if (frame.type === "unsubscribe") this.#sent.delete(stream);
    return true;
  }
}
