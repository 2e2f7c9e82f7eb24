// A list of notifications that stays right: the inbox's newest, what arrives, what is read or taken back. Owns the list;
// reads a client through its public surface only. What it has shown is handled, so it is acknowledged.

import type { Fanfare } from "./fanfare.js";
import type { Notification, Page } from "./http.js";

export interface FeedOptions {
  /** `user` (the default), `everyone` or `topic:<name>`. */
  stream?: string;
  /** How many a page of the inbox has: 1 to 100, by default 50. */
  limit?: number;
}

export interface Feed<Data = unknown> {
  notifications: Notification<Data>[];
  /** Fetches the page after the oldest that is shown; missing where there is none. */
  more?: () => Promise<void>;
  /** Why the inbox could not be read, until it could. */
  error?: unknown;
}

export class FeedSource<Data> {
  #fanfare: Fanfare<Data>;
  #options: Required<FeedOptions>;
  #now: Feed<Data> = { notifications: [] };
  #listeners = new Set<() => void>();
  #offs: (() => void)[] = [];
  /** Places that were taken back or read while a page was on its way. */
  #gone = new Set<string>();
  #read = new Set<string>();
  #live = false;

  constructor(fanfare: Fanfare<Data>, { stream = "user", limit = 50 }: FeedOptions = {}) {
    this.#fanfare = fanfare;
    this.#options = { stream, limit };
  }

  /** For `useSyncExternalStore`: what there is now, the same object until it changes. */
  get = (): Feed<Data> => this.#now;

  /** Watches the client while somebody watches this. */
  subscribe = (listener: () => void): (() => void) => {
    if (!this.#listeners.size) this.#open();
    this.#listeners.add(listener);
    return () => {
      this.#listeners.delete(listener);
      if (!this.#listeners.size) for (const off of this.#offs.splice(0)) off();
    };
  };

  #open(): void {
    const fanfare = this.#fanfare;
    const { stream } = this.#options;
    this.#offs = [
      fanfare.on("notification", (one) => one.stream === stream && this.#merge([one])),
      fanfare.on("cancelled", ({ id, ...from }) => from.stream === stream && this.#remove(id)),
      fanfare.on("read", (mark) => mark.stream === stream && this.#mark(mark.ids, mark.up_to)),
      fanfare.on("gap", (gap) => gap.stream === stream && this.#load()),
      // What was read or replaced while nobody was connected is in the inbox only.
      fanfare.state.subscribe(({ name }) => {
        if (name === "live" && !this.#live) this.#load();
        this.#live = name === "live";
      }),
    ];
    if (!this.#live) this.#load();
  }

  async #load(before?: () => Promise<Page<Data>>): Promise<void> {
    try {
      const page = await (before?.() ?? this.#fanfare.inbox(this.#options));
      const oldest = page.entries.at(-1)?.seq ?? 0;
      // Of the stretch that a newest page covers nothing is left but what it has, and what came after it.
      const newest = page.entries[0]?.seq ?? 0;
      const kept = ({ seq = Infinity }: Notification) => before || seq < oldest || seq > newest;
      const next = page.next && (() => this.#load(page.next!));
      this.#set({ notifications: this.#now.notifications.filter(kept), more: next ?? undefined });
      this.#merge(page.entries);
    } catch (error) {
      this.#set({ ...this.#now, error });
    }
  }

  #merge(some: Notification<Data>[]): void {
    const known = new Map(this.#now.notifications.map((one) => [one.id, one]));
    for (const one of some.filter(({ id }) => !this.#gone.has(id))) {
      const replaced = (other: Notification) => other.collapse_key === one.collapse_key && (other.seq ?? 0) < (one.seq ?? 0);
      for (const other of known.values()) if (one.collapse_key && replaced(other)) known.delete(other.id);
      known.set(one.id, { ...one, read: one.read || this.#read.has(one.id) });
    }
    const order = (one: Notification) => one.seq ?? Infinity;
    const newestFirst = (one: Notification, other: Notification) => (order(one) < order(other) ? 1 : -1);
    this.#set({ ...this.#now, notifications: [...known.values()].sort(newestFirst) });
  }

  #remove(id: string): void {
    this.#gone.add(id);
    this.#set({ ...this.#now, notifications: this.#now.notifications.filter((one) => one.id !== id) });
  }

  #mark(ids: string[], upTo = 0): void {
    for (const id of ids) this.#read.add(id);
    const read = (one: Notification) => one.read || ids.includes(one.id) || (one.seq ?? Infinity) <= upTo;
    this.#set({ ...this.#now, notifications: this.#now.notifications.map((one) => ({ ...one, read: read(one) })) });
  }

  #set(feed: Feed<Data>): void {
    this.#now = feed;
    for (const listener of [...this.#listeners]) listener();
  }
}
