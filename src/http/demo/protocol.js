// What the client protocol fixes: when to come back, and what close codes mean.
// Pure. The table is that of docs/protocol.md.

export const SUBPROTOCOL = "fanfare.v1";

const BACKOFF_FIRST_MS = 500;
const BACKOFF_LAST_MS = 20_000;

const MEANINGS = {
  1001: "The server is going away.",
  1002: "A frame broke the WebSocket protocol.",
  1003: "The server does not take this kind of frame.",
  1006: "The connection was lost, or the node did not answer.",
  1007: "A text frame was not UTF-8.",
  1009: "A message was larger than the limit (16 KiB).",
  4000: "The node is stopping; another one takes over.",
  4001: "The token ran out and was not refreshed in time.",
  4002: "No pong arrived for two heartbeats.",
  4003: "This client read nothing until the write deadline.",
  4004: "An operator closed this connection.",
  4005: "The node cannot serve this connection now.",
  4006: "The store was restored; come back and resume.",
  4007: "The connection has lasted long enough.",
  4008: "The client sent frames too fast for too long.",
  4500: "A newer connection of the same device took over.",
  4501: "The token was refused.",
  4502: "A frame was not what the protocol allows at that point.",
  4503: "No hello arrived in time.",
  4504: "The user has as many devices as allowed.",
  4505: "This device was removed, or its user was erased.",
  4506: "The user has as many other connections as allowed.",
};

/** The code of a newer connection of the same device. */
export const DISPLACED = 4500;

/** A sentence for people; the server's own reason where the code is unknown. */
export function meaning(code, reason) {
  return MEANINGS[code] ?? (reason ? `The server closed: ${reason}.` : `The connection closed with ${code}.`);
}

// Close codes after which trying again with the same frames can only fail the same way.
const OWN_FAULTS = new Set([1002, 1003, 1007, 1009]);

/** Whether the client comes back by itself after this close code. */
export function comesBack(code) {
  return !(code >= 4500 && code < 5000) && !OWN_FAULTS.has(code);
}

/** Full jitter: anything up to a ceiling that doubles, so that a crowd does not come back as one. */
export function backoffMs(attempt, random = Math.random) {
  const ceiling = Math.min(BACKOFF_LAST_MS, BACKOFF_FIRST_MS * 2 ** Math.min(attempt, 16));
  return Math.round(random() * ceiling);
}

/** The frame as it may be shown: without the secret in it. */
export function redacted(frame) {
  return frame && typeof frame.token === "string" ? { ...frame, token: "…" } : frame;
}
