// The inbox: notifications as cards, newest first, and what is acknowledged of them.

import { byId, clockTime, el } from "./dom.js";

const MAX_CARDS = 200;
const ANNOUNCE_EVERY_MS = 1_200;

export class Cards {
  /** `onAck(stream, seq)` when somebody presses a button. */
  constructor({ onAck }) {
    this.onAck = onAck;
    this.list = byId("cards");
    this.cards = [];
    this.queue = [];
    this.unannounced = [];
    byId("clear").addEventListener("click", () => this.clear());
    byId("ack-all").addEventListener("click", () => this.ackAll());
  }

  /** Shows a notification with the next picture; many at once cost one layout. */
  add(frame, epoch) {
    this.push({ frame, epoch, acked: false, build: () => card(frame, (stream, seq) => this.onAck(stream, seq)) });
    this.unannounced.push(frame.notification.title || frame.notification.body || "without a title");
    this.announceSoon();
  }

  /** A line between cards, where something is missing. */
  addGap({ stream, from, to }) {
    const text = to < from ? `${stream} began anew` : `${from} to ${to} of ${stream} are gone`;
    this.push({ frame: null, acked: true, build: () => el("li", { class: "gap" }, text) });
  }

  push(entry) {
    this.queue.push(entry);
    // A hidden tab draws no pictures: what would be cut anyway is not kept for later.
    if (this.queue.length > MAX_CARDS) this.queue.shift();
    if (this.queue.length === 1) requestAnimationFrame(() => this.draw());
  }

  draw() {
    const fresh = this.queue.splice(0).reverse();
    for (const entry of fresh) entry.element = entry.build();
    this.list.prepend(...fresh.map((entry) => entry.element));
    this.cards.unshift(...fresh);
    for (const entry of this.cards.splice(MAX_CARDS)) entry.element.remove();
    this.refresh();
  }

  /** Brings buttons and counters in line with what is acknowledged. */
  refresh(positions = this.positions) {
    this.positions = positions;
    for (const entry of positions ? this.waiting() : []) {
      const { stream, seq } = entry.frame;
      if (positions.epoch(stream) !== entry.epoch) settle(entry, "No longer in the stream");
      else if (positions.isAcked(stream, seq)) settle(entry, "✓ Acknowledged");
    }
    const waiting = this.waiting().length;
    byId("empty").hidden = this.cards.length > 0;
    byId("clear").disabled = this.cards.length === 0;
    byId("ack-all").disabled = waiting === 0;
    for (const badge of [byId("count"), byId("tab-count")]) {
      badge.hidden = waiting === 0;
      badge.textContent = String(waiting);
    }
    document.title = waiting ? `(${waiting}) Fanfare` : "Fanfare";
  }

  waiting() {
    return this.cards.filter((entry) => !entry.acked && entry.frame.seq);
  }

  ackAll() {
    const highest = new Map();
    for (const { frame } of this.waiting()) {
      highest.set(frame.stream, Math.max(frame.seq, highest.get(frame.stream) ?? 0));
    }
    for (const [stream, seq] of highest) this.onAck(stream, seq);
    byId("inbox").focus({ preventScroll: true });
  }

  clear() {
    this.list.replaceChildren();
    this.cards = [];
    this.queue = [];
    this.refresh();
    byId("inbox").focus({ preventScroll: true });
  }

  /** Says what came in one sentence, so that a burst does not talk for minutes. */
  announceSoon() {
    if (this.announcing) return;
    this.announcing = setTimeout(() => {
      this.announcing = null;
      const titles = this.unannounced.splice(0);
      const latest = titles.at(-1);
      byId("announce").textContent =
        titles.length === 1 ? `New notification: ${latest}` : `${titles.length} new notifications, the latest: ${latest}`;
    }, ANNOUNCE_EVERY_MS);
  }
}

/** Nothing is left to do with this card. */
function settle(entry, text) {
  entry.acked = true;
  entry.element.classList.add("acked");
  const button = entry.element.querySelector(".ack");
  const hadFocus = document.activeElement === button;
  button.replaceWith(el("span", { class: "done" }, text));
  // Keyboard users stay where they were instead of falling back to the top of the page.
  if (hadFocus) entry.element.focus({ preventScroll: true });
}

function card(frame, onAck) {
  const { notification: it, stream, seq } = frame;
  const title = it.title ? el("h3", {}, it.title) : el("h3", { class: "untitled" }, it.type || "Untitled");
  return el(
    "li",
    { class: "card", tabindex: "-1", data: { kind: streamKind(stream), priority: it.priority ?? "normal" } },
    el("div", { class: "card-head" }, title, clockTime(it.created_at)),
    it.body ? el("p", { class: "body" }, it.body) : null,
    it.data === null || it.data === undefined ? null : dataBlock(it.data),
    el(
      "div",
      { class: "card-foot" },
      el("ul", { class: "facts", "aria-label": "Details" }, ...facts(it, stream, seq)),
      seq
        ? el("button", { type: "button", class: "ack", "aria-label": `Acknowledge ${stream} up to ${seq}`, onclick: () => onAck(stream, seq) }, "Acknowledge")
        : null,
    ),
  );
}

function facts(it, stream, seq) {
  const lines = [el("li", { class: "stream" }, seq ? `${stream} #${seq}` : stream)];
  if (it.priority && it.priority !== "normal") lines.push(el("li", { class: `priority ${it.priority}` }, `${it.priority} priority`));
  if (it.type) lines.push(el("li", { class: "mono" }, it.type));
  if (!seq) lines.push(el("li", {}, "now or never"));
  else if (it.expires_at) lines.push(el("li", {}, "until ", clockTime(it.expires_at)));
  return lines;
}

function dataBlock(data) {
  return el(
    "details",
    { class: "data" },
    el("summary", {}, "Data"),
    el("pre", { class: "code", tabindex: "0", "aria-label": "Data as JSON" }, JSON.stringify(data, null, 2)),
  );
}

/** `user`, `topic` or `everyone`: which colour it has. */
export function streamKind(stream) {
  return stream.split(":", 1)[0];
}
