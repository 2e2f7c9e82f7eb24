// The client as applications see it. Puts the parts together, and keeps this tab in its role: the one that holds
// the socket, or one that listens to it.

import type { State } from "./connection.js";
import { Value } from "./events.js";
import type { FanfareError, Observable } from "./events.js";
import { Http } from "./http.js";
import type { Notification, Page, Query } from "./http.js";
import { Kept } from "./kept.js";
import { Leader } from "./leader.js";
import type { LeaderSeams } from "./leader.js";
import { loop } from "./loop.js";
import { backoffMs } from "./protocol.js";
import type { Count, ReadMark, ServerFrame } from "./protocol.js";
import { Session } from "./session.js";
import { onWake, pause, siteLocks, siteStore, socketClass, systemClock, systemFetch } from "./surroundings.js";
import type { Clock, SocketClass, Store } from "./surroundings.js";
import { Tabs } from "./tabs.js";
import type { Message } from "./tabs.js";
import { claims, Tokens } from "./token.js";
import { webSocket } from "./transport.js";

export interface Options {
  /** Where Fanfare is: `https://push.example.com`, with a path if a proxy puts it below one. */
  url: string;
  /** Gives a token of the user that is valid now. Asked before it is needed and when the last one runs out. */
  token: () => string | Promise<string>;
  /** The name of this device. Left out: made once and kept in `storage`; null: none, so nothing waits for it. */
  device?: string | null;
  /** Topics to follow from the start. */
  topics?: string[];
  /** When a notification is acknowledged: once its handlers succeeded (the default), or by `ack()`. */
  ack?: "handled" | "manual";
  /** Where the device's name and positions are kept; left out: `localStorage` where there is one; null: nowhere. */
  storage?: Store | null;
  /** Whether positions are kept, too: for clients without a device. */
  cursor?: boolean;
  /** Whether the tabs of a site share one socket: left out, they do where the browser can. */
  tabs?: boolean;
  /** The WebSocket class, where there is no global one. */
  WebSocket?: SocketClass;
  fetch?: typeof fetch;
  /** Time and chance, for tests. */
  clock?: Clock;
  random?: () => number;
}

/** What `on` tells. */
export interface Events<Data = unknown> {
  notification: Notification<Data>;
  /** A notification was taken back. */
  cancelled: { stream: string; seq: number; id: string };
  /** What was there is gone for good: fetch it from its own source. `from` is missing where nobody knows it. */
  gap: { stream: string; from?: number; to: number };
  /** Something was read, on this device or another. */
  read: ReadMark;
  /** A topic is followed: `stream` is `topic:<name>`. */
  subscribed: { stream: string };
  error: FanfareError;
}

type Parts = Pick<LeaderSeams, "clock" | "random" | "transport" | "tokens" | "http" | "session">;

export class Fanfare<Data = unknown> {
  readonly state: Observable<State>;
  /** How much is unread in the user's own stream, on whichever device. */
  readonly unread: Observable<number>;
  #state = new Value<State>({ name: "idle" });
  #options: Options;
  #url: string;
  #parts: Parts;
  #session: Session;
  #kept: Kept;
  #tabs?: Tabs;
  #leader?: Leader;
  /** User and device; unknown where it is not needed, or the token cannot be read. */
  #whose?: string;
  #sleep: () => void;

  constructor(options: Options) {
    const { clock = systemClock, random = Math.random, storage = siteStore(), fetch = systemFetch, ack } = options;
    const url = options.url.replace(/\/+$/, "");
    const tokens = new Tokens(options.token, clock);
    const again = ack !== "manual";
    const session = new Session({
      clock,
      random,
      again,
      // By hand only notifications are acknowledged: nobody is asked for the rest.
      handled: ({ kind, stream, epoch, seq }) =>
        (again || kind !== "notification") && seq && this.#handled(stream, epoch, seq),
    });
    this.#parts = {
      clock,
      random,
      transport: webSocket(url, options.WebSocket ?? socketClass()),
      tokens,
      http: new Http(url, fetch, tokens, clock),
      session,
    };
    this.#options = options;
    this.#url = url;
    this.#session = session;
    this.#kept = new Kept(storage, url);
    this.state = this.#state;
    this.unread = session.unread;
    for (const topic of options.topics ?? []) this.subscribe(topic);
    this.#sleep = onWake(() => this.wake());
    this.#start();
  }

  /** Calls `handler` with each event. Returns how to stop that. Without any, notifications wait for one. */
  on<Name extends keyof Events>(name: Name, handler: (event: Events<Data>[Name]) => unknown): () => void {
    const off = this.#session.emitter.on(name, handler);
    this.#session.deliveries.resume();
    return off;
  }

  /** Notifications one after the other: one is handled when the loop asks for the next. Ends with `close`. */
  [Symbol.asyncIterator](): AsyncGenerator<Notification<Data>, void, undefined> {
    return loop(this);
  }

  /** Follows a topic: the event `subscribed` says when, the event `error` if it is refused. */
  subscribe(topic: string, { since }: { since?: number } = {}): void {
    this.#session.want(topic, since);
    this.#wish();
  }

  unsubscribe(topic: string): void {
    this.#session.wanted.delete(topic);
    this.#wish();
  }

  /** Acknowledges a notification and all before it in its stream: with `ack: "manual"`. */
  ack({ stream, epoch, seq }: Pick<Notification, "stream" | "epoch" | "seq">): void {
    for (const place of this.#session.streams.open(stream)) if (place <= seq!) this.#handled(stream, epoch, place);
  }

  /** Marks notifications (or ids of the user's own stream) as read, on all devices. */
  async markRead(...which: (string | Notification<any>)[]): Promise<void> {
    const streams: Record<string, string[]> = {};
    for (const one of which) {
      const [stream, id] = typeof one === "string" ? ["user", one] : [one.stream, one.id];
      (streams[stream] ??= []).push(id);
    }
    for (const [stream, ids] of Object.entries(streams)) this.#count(await this.#parts.http.read({ ids, stream }));
  }

  /** Marks everything of a stream up to and with `seq` as read. */
  async markReadUpTo(seq: number, stream = "user"): Promise<void> {
    this.#count(await this.#parts.http.read({ up_to: seq, stream }));
  }

  /** A page of what there is for the user, newest first. Acknowledges nothing. */
  inbox(query: Query = {}): Promise<Page<Data>> {
    return this.#parts.http.inbox(query);
  }

  /** Connects now, also after it has stopped. */
  connect(): void {
    this.#leader?.connection.connect();
    this.#say({ connect: true });
  }

  /** The device may have slept or changed its network: looks after the connection. Pages do so by themselves. */
  wake(): void {
    if (this.#leader) this.#leader.connection.wake();
    else this.#tabs?.wake();
  }

  /** Ends everything, for good. What is handled is acknowledged first. */
  close(): void {
    this.#leader?.flush();
    this.#unlead();
    this.#sleep();
    this.#tabs?.close();
    this.#session.deliveries.close();
    this.#state.set({ name: "closed" });
  }

  get #closed(): boolean {
    return this.#state.value.name === "closed";
  }

  async #start(): Promise<void> {
    const locks = this.#options.tabs === false ? undefined : siteLocks();
    // Handlers that are added in the same turn miss nothing. Whose tabs and positions these are is in the token.
    const token = await (locks || this.#options.cursor ? this.#firstToken() : "");
    if (this.#closed) return;
    const { sub } = claims(token);
    this.#whose = sub && `${sub}:${this.#options.device}`;
    if (!locks) return this.#lead();
    this.#tabs = new Tabs({
      clock: this.#parts.clock,
      lockManager: locks,
      name: `fanfare:${this.#url}:${this.#whose}`,
      onLead: () => this.#lead(),
      onFollow: () => {
        this.#unlead();
        this.#wish(true);
      },
      onMessage: (message, tab) => this.#heard(message, tab),
    });
  }

  async #firstToken(): Promise<string> {
    const { clock, random, tokens } = this.#parts;
    for (let attempt = 0; !this.#closed; attempt++) {
      try {
        return await tokens.get();
      } catch (error) {
        const delay = backoffMs(attempt, random);
        this.#state.set({ name: "waiting", code: 1006, reason: `${error}`, until: clock.now() + delay });
        await pause(clock, delay);
      }
    }
    return "";
  }

  async #lead(): Promise<void> {
    const { device, storage } = this.#options;
    const whose = this.#options.cursor && this.#whose;
    const streams = this.#session.streams;
    // Without locks two tabs would drive each other away under one name, unless the application sees to it.
    const own = device === undefined && (this.#tabs || storage) ? await this.#kept.device() : device;
    if (whose) streams.adopt((await this.#kept.read(whose)) ?? []);
    if (this.#closed || this.#leader || this.#tabs?.leads === false) return;
    this.#leader = new Leader({
      ...this.#parts,
      device: own ?? undefined,
      onFrame: (frame) => this.#frame(frame),
      onCount: (count) => this.#count(count),
      onMoved: () => whose && this.#kept.keep(whose, streams.standings()),
      onState: (state) => this.#become(state),
    });
    this.#say({ lead: streams.standings() });
    this.#leader.connection.connect();
  }

  #unlead(): void {
    this.#leader?.stop();
    this.#leader = undefined;
  }

  #say(message: Message): void {
    this.#tabs?.post(message);
  }

  #frame(frame: ServerFrame): void {
    this.#say({ frame });
    this.#session.frame(frame);
  }

  #become(state: State): void {
    this.#say({ state });
    this.#state.set(state);
  }

  #count(count: Count): void {
    this.#say({ count });
    this.#session.count(count);
  }

  #handled(stream: string, epoch: string, seq: number): void {
    this.#say({ handled: [stream, epoch, seq] });
    this.#session.handled(stream, epoch, seq);
    this.#leader?.acknowledge();
  }

  #wish(joins?: true): void {
    this.#say({ topics: [...this.#session.wanted.keys()], joins });
    this.#leader?.follow();
  }

  #heard({ lead, frame, state, count, handled, topics, joins, wake, connect }: Message, tab: string): void {
    const session = this.#session;
    const leader = this.#leader;
    if (count) session.count(count);
    if (frame) session.frame(frame);
    if (state) this.#state.set(state);
    if (lead) {
      session.streams.adopt(lead);
      // A new leader may not have heard what this tab wants.
      this.#wish();
    }
    if (topics) session.elsewhere.set(tab, topics);
    if (handled) session.handled(...handled);
    if (!leader) return;
    if (topics) leader.follow();
    if (handled) leader.acknowledge();
    if (wake) leader.connection.wake();
    if (connect) leader.connection.connect();
    if (joins || wake) {
      const { unread, version, streams } = session;
      this.#say({
        lead: joins && streams.standings(),
        state: this.#state.value,
        count: { unread: unread.value, version },
      });
    }
  }
}
