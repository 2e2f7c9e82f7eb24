// The protocol as it is spoken: the last 200 frames, raw, and notes about what happened.

import { byId, clockTime, el } from "./dom.js";
import { redacted } from "./protocol.js";

const MAX_LINES = 200;

// Frames that deserve a sentence; the raw frame stands below it.
const SENTENCES = {
  gap: ({ stream, from, to }) => (to < from ? `${stream} began anew.` : `Gap in ${stream}: ${from} to ${to} are gone.`),
  cancelled: ({ stream, id }) => `${id} was taken back (${stream}).`,
  read: ({ ids, up_to: upTo }) => (upTo === undefined ? `Read: ${ids.length} of them.` : `Read up to ${upTo}.`),
  caught_up: (frame) => `Caught up with ${frame.stream}, through ${frame.through}.`,
  error: (frame) => `Error ${frame.code}: ${frame.message}`,
  bye: (frame) => `The server says goodbye: ${frame.reason} (${frame.code}).`,
};

const ARROWS = { in: "←", out: "→", note: "·" };
const SAID = { in: "received", out: "sent", note: "note" };

export class Log {
  constructor() {
    this.lines = [];
    // How many of the newest lines are not drawn yet.
    this.undrawn = 0;
    this.box = byId("log");
    this.list = byId("log-lines");
    this.box.addEventListener("toggle", () => this.redraw());
    byId("log-pings").addEventListener("change", () => this.redraw());
    byId("log-clear").addEventListener("click", () => this.clear());
  }

  frame(direction, frame) {
    this.add({ direction, at: Date.now(), frame: redacted(frame), text: SENTENCES[frame.type]?.(frame) });
  }

  note(text) {
    this.add({ direction: "note", at: Date.now(), text });
  }

  add(line) {
    this.lines.unshift(line);
    this.lines.length = Math.min(this.lines.length, MAX_LINES);
    if (this.undrawn === 0) requestAnimationFrame(() => this.draw());
    this.undrawn = Math.min(this.undrawn + 1, MAX_LINES);
  }

  draw() {
    const fresh = this.lines.slice(0, this.undrawn).filter((line) => this.isShown(line));
    this.undrawn = 0;
    if (fresh.length === 0) return;
    byId("log-last").textContent = `${ARROWS[fresh[0].direction]} ${fresh[0].text ?? fresh[0].frame.type}`;
    // Closed, it costs nothing; it is drawn whole when it opens.
    if (!this.box.open) return;
    this.list.prepend(...fresh.map(row));
    while (this.list.children.length > MAX_LINES) this.list.lastChild.remove();
  }

  isShown({ frame }) {
    return byId("log-pings").checked || (frame?.type !== "ping" && frame?.type !== "pong");
  }

  redraw() {
    this.undrawn = 0;
    const shown = this.box.open ? this.lines.filter((line) => this.isShown(line)) : [];
    this.list.replaceChildren(...shown.map(row));
  }

  clear() {
    this.lines = [];
    byId("log-last").textContent = "";
    this.redraw();
  }
}

function row({ direction, at, frame, text }) {
  return el(
    "li",
    { data: { direction, type: frame?.type ?? "note" } },
    clockTime(at),
    el("span", { class: "arrow", "aria-hidden": "true" }, ARROWS[direction]),
    el("span", { class: "hidden" }, SAID[direction]),
    el("div", {}, text ? el("p", {}, text) : null, frame ? el("code", {}, JSON.stringify(frame)) : null),
  );
}
