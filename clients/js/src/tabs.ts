// Which tab of a site holds the socket, and the channel between tabs. Owns the Web Locks and the BroadcastChannel;
// never reads what it carries but to tell who speaks.
//
// One lock is the socket: who gets it leads, the others stand in line. One more for each tab lets the leader see
// that a tab has gone, also by a crash. A leader that was put to sleep (phones do that) is robbed of its lock.

import type { State } from "./connection.js";
import type { Count, ServerFrame } from "./protocol.js";
import type { Standing } from "./streams.js";
import type { Clock } from "./surroundings.js";

/** What tabs tell each other; each part says something of its own. */
export interface Message {
  /** I hold the socket now: this is where the streams stand. */
  lead?: Standing[];
  /** From who holds it. The frames are the server's, so that each tab sees what it would see on its own socket. */
  frame?: ServerFrame;
  state?: State;
  count?: Count;
  /** Stream, epoch, seq: a handler of mine has succeeded. */
  handled?: [string, string, number];
  /** What I want to follow. */
  topics?: string[];
  /** Tell me how things stand. */
  joins?: true;
  wake?: boolean;
  connect?: boolean;
}

interface Seams {
  clock: Clock;
  lockManager: LockManager;
  name: string;
  /** This tab holds the socket from now on. */
  onLead(): void;
  /** It does not, or no longer, and others hear it. */
  onFollow(): void;
  onMessage(message: Message, tab: string): void;
}

/** A leader that is awake answers at once. */
const ANSWER_MS = 3_000;

export class Tabs {
  leads = false;
  #seams: Seams;
  #id = `${Math.random()}`;
  #channel: BroadcastChannel;
  #leader = "";
  #known = new Set<string>();
  #timer: unknown;
  #ready = false;
  #closed = false;
  /** Resolved, these give the locks back. */
  #ends: (() => void)[] = [];

  constructor(seams: Seams) {
    this.#seams = seams;
    this.#channel = new BroadcastChannel(seams.name);
    this.#channel.onmessage = ({ data: [tab, message] }) => this.#heard(tab, message);
    const start = () => {
      this.#ready = true;
      this.#seams.onFollow();
      this.#queue({});
      return this.#hold();
    };
    // Nothing is said before it is granted: who hears this tab waits for its lock, and had it first would think it gone.
    this.#lock(this.#seams.name + this.#id, {}, start).catch(start);
  }

  post(message: Message): void {
    if (this.#ready) this.#channel.postMessage([this.#id, message]);
  }

  /** Asks the leader to look after its connection; if it does not answer it sleeps, and this tab takes over. */
  wake(): void {
    this.post({ wake: true });
    this.#timer ??= this.#seams.clock.setTimeout(() => this.#queue({ steal: true }), ANSWER_MS);
  }

  close(): void {
    this.#closed = true;
    this.#ready = false;
    this.#seams.clock.clearTimeout(this.#timer);
    for (const end of this.#ends) end();
    this.#channel.close();
  }

  #lock(name: string, options: LockOptions, granted: () => unknown): Promise<unknown> {
    return this.#seams.lockManager.request(name, options, () => !this.#closed && granted());
  }

  #hold(): Promise<void> {
    return new Promise((end) => this.#ends.push(end));
  }

  /** Stands in line for the socket, or takes it. To stand there twice does no harm: only one can be granted. */
  #queue(options: LockOptions): void {
    let granted = false;
    const lead = () => {
      granted = this.leads = true;
      this.#seams.onLead();
      return this.#hold();
    };
    // Another tab took it; or there are no locks for this page after all.
    const refused = () => (granted ? this.#lose() : lead());
    this.#lock(this.#seams.name, options, lead).catch(refused);
  }

  #lose(): void {
    if (!this.leads) return;
    this.leads = false;
    this.#seams.onFollow();
    this.#queue({});
  }

  #heard(tab: string, message: Message): void {
    const { lead, frame, state } = message;
    if (lead) {
      this.#leader = tab;
      this.#lose();
    }
    // What a former leader says that has just woken up is old.
    if ((frame || state) && tab !== this.#leader) return;
    if (state) {
      this.#seams.clock.clearTimeout(this.#timer);
      this.#timer = undefined;
    }
    this.#seams.onMessage(message, tab);
    if (this.#known.has(tab)) return;
    this.#known.add(tab);
    this.#lock(this.#seams.name + tab, {}, () => this.#seams.onMessage({ topics: [] }, tab)).catch(() => {});
  }
}
