// What the client takes from the runtime that it is in, each thing looked for before it is used: there may be
// no window (Node), no document (React Native), no WebSocket (Node 20). The only module that names globals.

/** Time, so that tests can pass it in. */
export interface Clock {
  /** Milliseconds since 1970. */
  now(): number;
  setTimeout(run: () => void, ms: number): unknown;
  clearTimeout(timer: unknown): void;
}

/** What a WebSocket class must offer: that of browsers, of Node 22, of React Native, of the package `ws`. */
export interface Socket {
  onopen: ((event: any) => void) | null;
  onmessage: ((event: any) => void) | null;
  onclose: ((event: any) => void) | null;
  onerror: ((event: any) => void) | null;
  send(text: string): void;
  close(code?: number): void;
}
export type SocketClass = new (url: string, protocols?: string | string[]) => Socket;

/** Where names and positions can be kept: `localStorage`, or React Native's AsyncStorage. */
export interface Store {
  getItem(key: string): string | null | Promise<string | null>;
  setItem(key: string, value: string): void | Promise<void>;
}

const world: any = globalThis;

export const systemClock: Clock = {
  now: () => Date.now(),
  setTimeout: (run, ms) => world.setTimeout(run, ms),
  clearTimeout: (timer) => world.clearTimeout(timer),
};

/** The runtime's WebSocket class, or a clear word that there is none. */
export function socketClass(): SocketClass {
  if (world.WebSocket) return world.WebSocket;
  throw new Error("no global WebSocket: pass the option WebSocket");
}

/** The runtime's fetch. Called as a global: it must not be taken from where it belongs. */
export const systemFetch: typeof fetch = (...given) => world.fetch(...given);

/** Base64; throws where there is nothing for it (React Native before 0.74). */
export const decode = (text: string): string => world.atob(text);

export const pause = (clock: Clock, ms: number) => new Promise<void>((go) => clock.setTimeout(go, ms));

/** The browser's store; undefined elsewhere and where the page may not use it (then even looking throws). */
export function siteStore(): Store | undefined {
  try {
    return world.document && world.localStorage;
  } catch {}
}

/** What tabs of a site share: both parts, or nothing. Only in pages, since a Node process is no site. */
export function siteLocks(): LockManager | undefined {
  return world.document && world.BroadcastChannel && world.navigator.locks;
}

/** Calls back when the network is back or the page is looked at again. Returns how to stop that. */
export function onWake(wake: () => void): () => void {
  const page = world.document;
  const seen = () => page?.visibilityState !== "hidden" && wake();
  const each = (verb: string) => {
    for (const name of ["online", "focus"]) world[verb]?.(name, seen);
    page?.[verb]("visibilitychange", seen);
  };
  each("addEventListener");
  return () => each("removeEventListener");
}

/** For what nobody listens to: silence would hide it. */
export function complain(error: unknown): void {
  world.console?.warn("fanfare:", error);
}
