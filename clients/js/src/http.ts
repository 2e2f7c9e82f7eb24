// The user's side of the HTTP API: inbox, unread count, marking as read. Owns deadlines and errors of requests;
// knows nothing of connections.

import { FanfareError } from "./events.js";
import type { Content, Count } from "./protocol.js";
import type { Clock } from "./surroundings.js";
import type { Tokens } from "./token.js";

/** A notification with its place. What is now or never (`ttl: 0`) has no `seq`. */
export type Notification<Data = unknown> = Content<Data> & {
  stream: string;
  epoch: string;
  seq?: number;
  read: boolean;
};

export interface Query {
  /** `user` (the default), `everyone` or `topic:<name>`. */
  stream?: string;
  /** Only what is before this seq. */
  before?: number;
  /** 1 to 100, by default 50. */
  limit?: number;
  /** Only what is unread. */
  unread?: true;
}

/** A page of the inbox, newest first. */
export interface Page<Data = unknown> {
  entries: Notification<Data>[];
  /** How much of this stream is unread; null where nobody counts. */
  unread: number | null;
  /** The page after it; null on the last. */
  next: (() => Promise<Page<Data>>) | null;
}

const DEADLINE_MS = 10_000;

export class Http {
  #url: string;
  #fetch: typeof fetch;
  #tokens: Tokens;
  #clock: Clock;

  constructor(url: string, fetcher: typeof fetch, tokens: Tokens, clock: Clock) {
    this.#url = url.replace(/^ws/, "http");
    this.#fetch = fetcher;
    this.#tokens = tokens;
    this.#clock = clock;
  }

  count(): Promise<Count> {
    return this.#call("/unread");
  }

  read(what: { ids?: string[]; up_to?: number; stream: string }): Promise<Count> {
    return this.#call("/read", what);
  }

  async inbox(query: Query): Promise<Page<any>> {
    const text = Object.entries(query).map(([name, value]) => `${name}=${encodeURIComponent(value)}`);
    const { stream, epoch, unread, entries, next } = await this.#call(`?${text.join("&")}`);
    return {
      entries: entries.map(({ seq, read, notification }: any) => ({ ...notification, stream, epoch, seq, read })),
      unread,
      next: next && (() => this.inbox({ ...query, before: next })),
    };
  }

  /** A token that ran out meanwhile is replaced once. */
  async #call(path: string, body?: unknown): Promise<any> {
    let answer = await this.#request(path, await this.#tokens.get(), body);
    if (answer.status === 401) answer = await this.#request(path, await this.#tokens.renew(), body);
    const { ok, status } = answer;
    const read = await answer.json().catch(() => ({}));
    if (ok) return read;
    throw new FanfareError(read.code, read.detail ?? status, status > 499 || status === 429);
  }

  async #request(path: string, token: string, body?: unknown): Promise<Response> {
    let timer: unknown;
    const late = new Promise<never>((_, reject) => {
      timer = this.#clock.setTimeout(() => reject("no answer"), DEADLINE_MS);
    });
    const request = {
      method: body ? "POST" : "GET",
      headers: { Authorization: `Bearer ${token}`, "Content-Type": "application/json" },
      body: JSON.stringify(body),
    };
    try {
      return await Promise.race([this.#fetch(`${this.#url}/v1/inbox${path}`, request), late]);
    } catch (error) {
      throw new FanfareError("unreachable", `${error}`, true, error);
    } finally {
      this.#clock.clearTimeout(timer);
    }
  }
}
