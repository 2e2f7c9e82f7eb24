// What the client protocol fixes: the frames, which ends are final, how long to wait after the others.
// Pure: no timers, no sockets, no state. The reference is docs/protocol.md of the server.

/** A notification as its publisher wrote it. */
export interface Content<Data = unknown> {
  id: string;
  type: string | null;
  title: string | null;
  body: string | null;
  data: Data;
  priority: "high" | "normal" | "low";
  collapse_key: string | null;
  created_at: string;
  expires_at: string | null;
}

/** Where a stream goes on, as `welcome` and `subscribed` say it. */
export interface StreamStart {
  stream: string;
  epoch: string;
  head: number;
  from: number;
  gap: boolean;
}

/** Where a client has come to in a stream. */
export interface Position {
  epoch: string;
  seq: number;
}

/** How much is unread; of two counts the one with the higher version is right. */
export interface Count {
  unread: number;
  version: number;
}

/** What was read, on whichever device. */
export interface ReadMark {
  stream: string;
  ids: string[];
  up_to?: number;
}

export type Welcome = Count & {
  type: "welcome";
  connection: string;
  node: string;
  time: string;
  heartbeat_ms: number;
  streams: StreamStart[];
  degraded: boolean;
};

export type ErrorFrame = { type: "error"; id?: number; code: string; message: string; retry: boolean; topic?: string };

export type ServerFrame =
  | Welcome
  | { type: "notification"; stream: string; seq?: number; read?: true; notification: Content }
  | { type: "cancelled"; stream: string; seq: number; id: string }
  | { type: "gap"; stream: string; epoch: string; from: number; to: number }
  | { type: "caught_up"; stream: string; through: number }
  | (Count & ReadMark & { type: "read" })
  | ({ type: "subscribed" } & StreamStart)
  | { type: "unsubscribed"; id?: number; stream: string }
  | { type: "refreshed"; id?: number; expires_at: string }
  | ErrorFrame
  | { type: "ping" | "pong" }
  | { type: "bye"; code: number; reason: string; reconnect_after_ms?: number };

export type ClientFrame =
  | { type: "hello"; token: string; device?: string; resume: Record<string, Position | undefined>; ping: true }
  | { type: "ack"; stream: string; seq: number }
  | { type: "subscribe"; id?: number; topic: string; since?: number }
  | { type: "unsubscribe"; id?: number; topic: string }
  | { type: "refresh"; id?: number; token: string }
  | { type: "ping" | "pong" };

/** After 4500-4999 something has to change first; after the other four the same frames would fail again. */
export function isFinal(code: number): boolean {
  return (code >= 4500 && code < 5000) || [1002, 1003, 1007, 1009].includes(code);
}

const FIRST_MS = 500;
const LAST_MS = 20_000;

/** Full jitter: anything up to a ceiling that doubles, so that a crowd does not come back as one. */
export function backoffMs(attempt: number, random: () => number): number {
  return random() * Math.min(LAST_MS, FIRST_MS * 2 ** attempt);
}
