// A connection that comes back by itself. Owns its link, its timers and the state that people see;
// knows nothing of streams, acknowledgements or tabs.

import { backoffMs, isFinal } from "./protocol.js";
import type { ClientFrame, ServerFrame } from "./protocol.js";
import type { Clock } from "./surroundings.js";
import type { Link, Transport } from "./transport.js";

export type State =
  | { name: "idle" | "connecting" | "closed" }
  | { name: "live"; node: string; connection: string; degraded: boolean }
  /** It comes back by itself at `until` (milliseconds since 1970). */
  | { name: "waiting"; code: number; reason: string; until: number }
  /** It does not come back before `connect()`. */
  | { name: "stopped"; code: number; reason: string };

export interface Seams {
  clock: Clock;
  random: () => number;
  transport: Transport;
  /** The first frame of the next attempt; with a new token where the last one was refused or ran out. */
  hello(renew: boolean): Promise<ClientFrame>;
  onFrame(frame: ServerFrame): void;
  onState(state: State): void;
}

/** From the asking for a token to `welcome`: a node may wait ten seconds for the key of a token. */
const WELCOME_MS = 20_000;
/** The server pings about every heartbeat; silence for more than two of them is its death. */
const HEARTBEATS = 2.25;
/** An answer to a ping that is sent because the device slept, or changed its network. */
const PROBE_MS = 5_000;
/** A connection that lasted this long was a good one: backoff starts from the beginning. */
const STEADY_MS = 10_000;
const TOKEN_EXPIRED = 4001;
const INVALID_TOKEN = 4501;

export class Connection {
  #seams: Seams;
  #link?: Link;
  #live = false;
  #attempt = 0;
  #renew = 0;
  /** Whether a delay is our own, and no hint of the server. */
  #own = false;
  #since = 0;
  #silenceMs = 0;
  #deadline = 0;
  #timer: unknown;
  /** Rises whenever what is under way is abandoned, so that what comes late finds out. */
  #turn = 0;

  constructor(seams: Seams) {
    this.#seams = seams;
  }

  /** Connects now, whatever was before. */
  async connect(): Promise<void> {
    const { hello, transport, onState } = this.#seams;
    this.stop();
    const turn = this.#turn;
    const current = () => turn === this.#turn;
    onState({ name: "connecting" });
    this.#silenceMs = WELCOME_MS;
    this.#heard();
    this.#watch();
    try {
      const first = await hello(this.#renew > 0);
      if (!current()) return;
      this.#link = transport(first, {
        frame: (frame) => current() && this.#received(frame),
        closed: (code, reason) => current() && this.#ended(code, reason),
      });
    } catch (error) {
      if (current()) this.#ended(1006, `${error}`);
    }
  }

  /** Leaves, and stays away until `connect`. */
  stop(): void {
    this.#seams.clock.clearTimeout(this.#timer);
    this.#turn++;
    this.#live = this.#own = false;
    this.#link?.close();
    this.#link = undefined;
  }

  /** Sends a frame; false if there is no live connection to send it on. */
  send(frame: ClientFrame): boolean {
    try {
      if (this.#live) this.#link!.send(frame);
      return this.#live;
    } catch {
      // The socket is closing; its end follows.
      return false;
    }
  }

  /** The network is back, or somebody looks: do not sit out a delay of our own, do not trust a silent socket. */
  wake(): void {
    if (this.#own) this.connect();
    if (!this.send({ type: "ping" })) return;
    this.#deadline = Math.min(this.#deadline, this.#seams.clock.now() + PROBE_MS);
    this.#watch();
  }

  #received(frame: ServerFrame): void {
    const { type } = frame;
    if (type === "bye") return this.#ended(frame.code, frame.reason, frame.reconnect_after_ms);
    this.#heard();
    if (type === "welcome") {
      this.#live = true;
      this.#renew = 0;
      this.#since = this.#seams.clock.now();
      this.#silenceMs = frame.heartbeat_ms * HEARTBEATS;
      this.#heard();
      this.#watch();
      const { node, connection, degraded } = frame;
      this.#seams.onState({ name: "live", node, connection, degraded });
    }
    if (type === "ping") this.send({ type: "pong" });
    this.#seams.onFrame(frame);
  }

  #heard(): void {
    this.#deadline = this.#seams.clock.now() + this.#silenceMs;
  }

  /** One timer that looks again when it was early, instead of one set anew with every frame. */
  #watch(): void {
    const { clock } = this.#seams;
    clock.clearTimeout(this.#timer);
    const left = this.#deadline - clock.now();
    if (left > 0) this.#timer = clock.setTimeout(() => this.#watch(), left);
    else this.#ended(1006, "silence");
  }

  #ended(code: number, reason: string, hintMs?: number): void {
    const { clock, random, onState } = this.#seams;
    if (this.#live && clock.now() - this.#since >= STEADY_MS) this.#attempt = 0;
    this.stop();
    // Another token may do, so one is tried; a second refusal is an answer.
    if (isFinal(code) && (code !== INVALID_TOKEN || this.#renew++)) return onState({ name: "stopped", code, reason });
    if (code === TOKEN_EXPIRED) this.#renew = 1;
    const delay = hintMs ?? backoffMs(this.#attempt, random);
    this.#attempt++;
    this.#own = hintMs === undefined;
    this.#timer = clock.setTimeout(() => this.connect(), delay);
    onState({ name: "waiting", code, reason, until: clock.now() + delay });
  }
}
