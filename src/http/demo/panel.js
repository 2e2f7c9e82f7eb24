// The state of the connection, the streams as staves of notes, and the topics.

import { byId, el } from "./dom.js";
import { streamKind } from "./cards.js";
import { DISPLACED } from "./protocol.js";

// Notes on a staff: the last places of the stream.
const NOTES = 24;

let countdown;

/** Shows where the connection stands, in the header and beside the button. */
export function showState(state) {
  clearInterval(countdown);
  const draw = () => {
    byId("state").dataset.state = state.name;
    setText("state-text", shortState(state));
    setText("why", longState(state));
  };
  draw();
  if (state.name === "waiting") countdown = setInterval(draw, 500);
  byId("connect").textContent = buttonText(state);
  byId("connect").classList.toggle("primary", state.name !== "live" && state.name !== "connecting");
  if (state.name !== "live") showUnread(null);
}

function setText(id, text) {
  const element = byId(id);
  // Unchanged text is left alone: status regions speak whenever they are written.
  if (element.textContent !== text) element.textContent = text;
}

function shortState(state) {
  switch (state.name) {
    case "live":
      return state.welcome.degraded ? `Live on ${state.welcome.node}, degraded` : `Live on ${state.welcome.node}`;
    case "connecting":
      return "Connecting";
    case "waiting":
      return "Reconnecting";
    case "stopped":
      return state.code === DISPLACED ? "Displaced" : "Refused";
    default:
      return "Not connected";
  }
}

function longState(state) {
  if (state.name === "waiting") {
    const seconds = Math.max(0, Math.ceil((state.until - Date.now()) / 1000));
    return `${state.why} Trying again in ${seconds} s.`;
  }
  if (state.name === "stopped") return state.code ? `${state.why} (${state.code})` : state.why;
  return "";
}

function buttonText(state) {
  if (state.name === "live" || state.name === "connecting") return "Disconnect";
  if (state.name === "waiting") return "Try now";
  return state.code === DISPLACED ? "Take over" : "Connect";
}

/** How much of the user's own stream is unread, on whichever device; null while that is not known. */
export function showUnread(unread) {
  setText("session-facts", unread === null ? "" : unread === 0 ? "all read" : `${unread} unread`);
  for (const badge of [byId("count"), byId("tab-count")]) {
    badge.hidden = !unread;
    badge.textContent = String(unread ?? "");
  }
  document.title = unread ? `(${unread}) Fanfare` : "Fanfare";
}

/** One staff per stream: filled notes are acknowledged, ringed ones received, dots to come. */
export function showStreams(positions) {
  const followed = positions ? [...positions.streams].filter(([, at]) => at.followed) : [];
  followed.sort(([a], [b]) => order(a) - order(b) || a.localeCompare(b));
  byId("streams").replaceChildren(...followed.map(([name, at]) => staff(name, at)));
}

function order(stream) {
  return ["user", "everyone", "topic"].indexOf(streamKind(stream));
}

function staff(name, at) {
  const first = Math.max(1, at.head - NOTES + 1);
  const notes = Array.from({ length: at.head - first + 1 }, (_, index) => note(first + index, at));
  const said = at.head === 0 ? "empty" : `${at.acked} of ${at.head} acked`;
  return el(
    "li",
    { data: { kind: streamKind(name) } },
    el("span", { class: "name" }, name),
    el("span", { class: "staff", "aria-hidden": "true" }, ...notes),
    el("span", { class: "numbers" }, said),
  );
}

function note(seq, at) {
  const what = seq <= at.acked ? "acked" : seq <= at.seq ? "received" : "ahead";
  return el("i", { class: what });
}

/** Shows one topic as a chip; `status` is on, off, waiting or gone. */
export function showTopic(topic, status, onRemove) {
  const list = byId("topics");
  const chip = [...list.children].find((item) => item.dataset.topic === topic);
  if (status === "gone") return chip?.remove();
  const fresh = el(
    "li",
    { data: { topic, status } },
    el("span", {}, topic),
    el("button", { type: "button", "aria-label": `Stop following ${topic}`, onclick: () => onRemove(topic) }, "×"),
  );
  if (chip) chip.dataset.status = status;
  else list.append(fresh);
}
