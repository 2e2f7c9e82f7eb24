// The inbox: notifications as cards, newest first, and what became of each: read, acknowledged, cancelled or
// replaced by a newer one of its collapse key.

import { byId, clockTime, el } from "./dom.js";

const MAX_CARDS = 200;
const ANNOUNCE_EVERY_MS = 1_200;
const ENDED = { cancelled: "Cancelled", replaced: "Replaced by a newer one" };

export class Cards {
  /** `onAck(stream, seq)` and `onRead(stream, ids)` when somebody wants that. */
  constructor({ onAck, onRead }) {
    this.onAck = onAck;
    this.onRead = onRead;
    this.list = byId("cards");
    this.cards = [];
    this.queue = [];
    this.unannounced = [];
    this.ended = new Set();
    this.cleared = new Map();
    byId("clear").addEventListener("click", () => this.clear());
    byId("ack-all").addEventListener("click", () => this.ackAll());
    byId("read-all").addEventListener("click", () => this.readAll());
  }

  /** Shows a notification with the next picture; many at once cost one layout. */
  add(frame, epoch) {
    this.replace(frame);
    // Without a place in a stream there is nothing to acknowledge or to mark.
    const entry = { frame, epoch, acked: false, isRead: Boolean(frame.read) || !frame.seq };
    const read = () => this.read([entry]);
    this.push(Object.assign(entry, { build: () => card(entry, (stream, seq) => this.onAck(stream, seq), read) }));
    this.unannounced.push(frame.notification.title || frame.notification.body || "without a title");
    this.announceSoon();
  }

  all() {
    return [...this.queue, ...this.cards].filter((entry) => entry.frame);
  }

  /** What this device has not acknowledged is replaced by a newer one of the same collapse key. */
  replace({ stream, notification: { collapse_key: key } }) {
    if (!key) return;
    for (const entry of this.all()) {
      const { frame } = entry;
      if (frame.stream === stream && frame.notification.collapse_key === key && !entry.acked) this.end(entry, "replaced");
    }
  }

  /** The publisher took it back. */
  cancel({ stream, id }) {
    for (const entry of this.all()) {
      if (entry.frame.stream === stream && entry.frame.notification.id === id) this.end(entry, "cancelled");
    }
    this.ended.add(stream);
    this.refresh();
  }

  /** Nothing more is to be done with it: `how` is `cancelled` or `replaced`. */
  end(entry, how) {
    entry.ended = how;
    entry.acked = true;
    this.ended.add(entry.frame.stream);
    if (entry.element) settle(entry, ENDED[how]);
  }

  /** Whether something in this stream was cancelled or replaced. */
  hasEnded(stream) {
    return this.ended.has(stream);
  }

  /** Whether something in this stream is still to be acknowledged by somebody, shown or cleared away. */
  waitsIn(stream, positions) {
    const isOpen = ({ acked, frame }) => !acked && frame.stream === stream && !positions.isAcked(stream, frame.seq);
    const cleared = this.cleared.get(stream) ?? 0;
    return !positions.isAcked(stream, cleared) || this.all().some((entry) => entry.frame.seq && isOpen(entry));
  }

  /** The user has read something, here or on another device. */
  markRead({ stream, ids, up_to: upTo }) {
    const known = new Set(ids);
    for (const entry of this.all()) {
      const { frame } = entry;
      if (frame.stream === stream && (known.has(frame.notification.id) || frame.seq <= upTo)) setRead(entry);
    }
    this.refresh();
  }

  unread() {
    return this.cards.filter((entry) => entry.frame && !entry.isRead && !entry.ended);
  }

  read(entries) {
    const byStream = new Map();
    for (const { frame } of entries.filter((entry) => !entry.isRead && !entry.ended)) {
      byStream.set(frame.stream, [...(byStream.get(frame.stream) ?? []), frame.notification.id]);
    }
    for (const [stream, ids] of byStream) this.onRead(stream, ids);
  }

  readAll() {
    this.read(this.unread());
    byId("inbox").focus({ preventScroll: true });
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
    for (const entry of fresh) {
      entry.element = entry.build();
      if (entry.ended) settle(entry, ENDED[entry.ended]);
    }
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
    byId("read-all").disabled = this.unread().length === 0;
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
    for (const { frame } of this.waiting()) {
      this.cleared.set(frame.stream, Math.max(frame.seq, this.cleared.get(frame.stream) ?? 0));
    }
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

/** Nothing is left to acknowledge of this card. */
function settle(entry, text) {
  entry.acked = true;
  const { element } = entry;
  element.classList.add("acked");
  if (entry.ended) element.classList.add(entry.ended);
  if (entry.ended) seen(entry);
  const done = el("span", { class: "done" }, text);
  const button = element.querySelector(".ack");
  if (!button) return element.querySelector(".done")?.replaceWith(done);
  const hadFocus = document.activeElement === button;
  button.replaceWith(done);
  // Keyboard users stay where they were instead of falling back to the top of the page.
  if (hadFocus) element.focus({ preventScroll: true });
}

function setRead(entry) {
  entry.isRead = true;
  if (entry.element) seen(entry);
}

/** It does not want to be read any more. */
function seen(entry) {
  entry.element.classList.remove("unread");
  entry.element.querySelector(".unread-word")?.remove();
  drop(entry, entry.element.querySelector(".mark-read"));
}

function drop(entry, button) {
  const hadFocus = button && document.activeElement === button;
  button?.remove();
  if (hadFocus) entry.element.focus({ preventScroll: true });
}

function card(entry, onAck, onRead) {
  const { notification: it, stream, seq } = entry.frame;
  const unread = !entry.isRead;
  const title = it.title ? el("h3", {}, it.title) : el("h3", { class: "untitled" }, it.type || "Untitled");
  if (unread) title.prepend(el("span", { class: "hidden unread-word" }, "Unread: "));
  return el(
    "li",
    {
      class: unread ? "card unread" : "card",
      tabindex: "-1",
      data: { kind: streamKind(stream), priority: it.priority ?? "normal" },
      // A click on what is written marks it; its buttons and folds have a meaning of their own.
      onclick: (event) => event.target.closest("button, details") || onRead(),
    },
    el("div", { class: "card-head" }, title, clockTime(it.created_at)),
    it.body ? el("p", { class: "body" }, it.body) : null,
    it.data === null || it.data === undefined ? null : dataBlock(it.data),
    el(
      "div",
      { class: "card-foot" },
      el("ul", { class: "facts", "aria-label": "Details" }, ...facts(it, stream, seq)),
      el(
        "div",
        { class: "card-buttons" },
        unread ? el("button", { type: "button", class: "mark-read", onclick: onRead }, "Mark as read") : null,
        seq
          ? el("button", { type: "button", class: "ack", "aria-label": `Acknowledge ${stream} up to ${seq}`, onclick: () => onAck(stream, seq) }, "Acknowledge")
          : null,
      ),
    ),
  );
}

function facts(it, stream, seq) {
  const lines = [el("li", { class: "stream" }, seq ? `${stream} #${seq}` : stream)];
  if (it.priority && it.priority !== "normal") lines.push(el("li", { class: `priority ${it.priority}` }, `${it.priority} priority`));
  if (it.collapse_key) lines.push(el("li", { class: "mono" }, `⇄ ${it.collapse_key}`));
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
