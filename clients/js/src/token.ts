// The token of the user: asked for when it is needed, kept while it is good, read only for its times and its user.
// Never checks it (the server does), never logs it, never stores it.

import { decode } from "./surroundings.js";
import type { Clock } from "./surroundings.js";

/** A token that runs out within this time is not worth a connection. */
const SPARE_MS = 5_000;

/** The claims, of which only ASCII is right; none where they cannot be read. */
export function claims(token: string): { sub?: string; exp?: number } {
  try {
    return JSON.parse(decode(token.split(".")[1]!.replace(/-/g, "+").replace(/_/g, "/")));
  } catch {
    return {};
  }
}

export class Tokens {
  /** How far the server's clock is ahead of ours. */
  skewMs = 0;
  #source: () => string | Promise<string>;
  #clock: Clock;
  #kept = "";
  #asking?: Promise<string>;

  constructor(source: () => string | Promise<string>, clock: Clock) {
    this.#source = source;
    this.#clock = clock;
  }

  /** How long it lasts; NaN where it cannot be read. */
  leftMs(token: string): number {
    return claims(token).exp! * 1000 - this.#clock.now() - this.skewMs;
  }

  /** The one at hand while it is good, else a new one. */
  async get(): Promise<string> {
    return this.leftMs(this.#kept) > SPARE_MS ? this.#kept : this.renew();
  }

  /** A new one; asked for once however many wait for it. */
  renew(): Promise<string> {
    return (this.#asking ??= this.#ask().finally(() => (this.#asking = undefined)));
  }

  async #ask(): Promise<string> {
    return (this.#kept = await this.#source());
  }
}
