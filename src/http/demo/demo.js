// The demo page of a Fanfare node: puts the parts together, and gets the credentials.
//
// In the trial set-up the node itself hands out a token and a publisher key; elsewhere a
// person types them in. Neither is ever stored.

import { Cards } from "./cards.js";
import { byId, store } from "./dom.js";
import { Log } from "./log.js";
import { showState, showStreams, showTopic, showUnread } from "./panel.js";
import { Publisher } from "./publish.js";
import { Session } from "./session.js";

const REQUEST_DEADLINE_MS = 10_000;

const page = { trial: false, session: null, publisherKey: null, topics: new Set() };

const log = new Log();
const cards = new Cards({
  onAck: (stream, seq) => {
    page.session?.ack(stream, seq);
    ackTheRest(stream);
  },
  onRead: (stream, ids) => {
    if (!page.session?.read(stream, ids)) byId("announce").textContent = "Not connected: nothing was marked as read.";
  },
});
const publisher = new Publisher({ key: publisherKey, keyForCurl: () => (page.trial && page.publisherKey) || "$KEY" });

/** What was taken back or replaced has a place in the stream, but nothing that a person could acknowledge. */
function ackTheRest(stream) {
  if (cards.hasEnded(stream) && !cards.waitsIn(stream, page.session.positions)) page.session.ackReceived(stream);
}

async function fetchJson(path, body) {
  const response = await fetch(path, {
    method: body ? "POST" : "GET",
    headers: body ? { "Content-Type": "application/json" } : {},
    body: body && JSON.stringify(body),
    signal: AbortSignal.timeout(REQUEST_DEADLINE_MS),
  });
  const answer = await response.json().catch(() => ({}));
  if (response.ok) return answer;
  const error = new Error(answer.detail ?? answer.title ?? `The node answered ${response.status}.`);
  // Asking again changes a 4xx only if it was about load.
  error.final = response.status >= 400 && response.status < 500 && response.status !== 429;
  throw error;
}

/** A token for the connection, anew each time: the last one may have run out meanwhile. */
async function credentials(user) {
  if (!page.trial) {
    const token = byId("token").value.trim();
    if (!token) throw Object.assign(new Error("Paste a user token first."), { final: true });
    return { token, expiresAt: null };
  }
  const answer = await fetchJson("/demo/token", { user, topics: ["#"] }).catch((error) => {
    throw error.final ? error : new Error("The node did not answer.");
  });
  page.publisherKey = answer.publisher_key;
  publisher.refresh();
  return { token: answer.token, expiresAt: answer.expires_at };
}

async function publisherKey() {
  if (!page.trial) return byId("key").value.trim();
  if (!page.publisherKey) await credentials(byId("user").value.trim());
  return page.publisherKey;
}

function connect() {
  const user = page.trial ? byId("user").value.trim() : tokenSubject(byId("token").value);
  const device = byId("device").value.trim();
  store.write("user", user);
  store.write("device", device);
  publisher.aimAt(user, device);
  const same = page.session && page.session.identity.user === user && page.session.identity.device === device;
  if (!same) startSession(user, device);
  page.session.connection.connect();
}

/** Another user or device has other positions: nothing of the last one stays. */
function startSession(user, device) {
  page.session?.close();
  if (page.session) cards.clear();
  const session = new Session({
    identity: { user, device, topics: page.topics },
    credentials: () => credentials(user),
    on: {
      state: (state) => stateChanged(state),
      frame: (direction, frame) => log.frame(direction, frame),
      notification: (frame, epoch) => cards.add(frame, epoch),
      cancelled: (frame) => {
        cards.cancel(frame);
        ackTheRest(frame.stream);
      },
      read: (frame) => cards.markRead(frame),
      unread: showUnread,
      gap: (frame) => cards.addGap(frame),
      error: (frame) => (byId("session-error").textContent = frame.message),
      note: (text) => log.note(text),
      topic: topicChanged,
      streams: drawSoon,
    },
  });
  session.autoAck = byId("auto-ack").checked;
  page.session = session;
}

function stateChanged(state) {
  showState(state);
  if (state.name === "connecting") byId("session-error").textContent = "";
  if (state.why) {
    log.note(state.why);
    // Said once here: the text beside the button counts seconds, and would not stop talking.
    byId("announce").textContent = state.why;
  }
  const busy = state.name === "live" || state.name === "connecting";
  for (const id of ["user", "device"]) byId(id).readOnly = busy;
}

// Many frames a second move the streams; one picture at a time is enough.
let drawing = false;
function drawSoon() {
  if (drawing) return;
  drawing = true;
  requestAnimationFrame(() => {
    drawing = false;
    showStreams(page.session?.positions);
    cards.refresh(page.session?.positions);
  });
}

function topicChanged(topic, status) {
  showTopic(topic, status, (name) => follow(name, false));
}

function follow(topic, wanted) {
  byId("session-error").textContent = "";
  if (page.session) page.session[wanted ? "subscribe" : "unsubscribe"](topic);
  else {
    page.topics[wanted ? "add" : "delete"](topic);
    topicChanged(topic, wanted ? "waiting" : "gone");
  }
  // Elsewhere the next token may allow other topics, and one too many refuses the connection.
  if (page.trial) store.write("topics", [...page.topics]);
}

/** Whose token it is. Only for what the page shows and keeps; the node checks it. */
function tokenSubject(token) {
  try {
    const claims = token.split(".")[1].replaceAll("-", "+").replaceAll("_", "/");
    return JSON.parse(atob(claims)).sub ?? "";
  } catch {
    return "";
  }
}

function listen() {
  byId("connect-form").addEventListener("submit", (event) => {
    event.preventDefault();
    const busy = ["live", "connecting"].includes(page.session?.connection.state.name);
    if (busy) page.session.close();
    else connect();
  });
  byId("topic-form").addEventListener("submit", (event) => {
    event.preventDefault();
    const topic = byId("topic").value.trim();
    if (topic) follow(topic, true);
    byId("topic").value = "";
  });
  byId("auto-ack").addEventListener("change", (event) => {
    store.write("auto-ack", event.target.checked);
    if (page.session) page.session.autoAck = event.target.checked;
    if (event.target.checked) cards.ackAll();
  });
  // A new token for a connection that is live goes in without a break.
  byId("token").addEventListener("change", (event) => page.session?.refresh(event.target.value.trim()));
}

function prepare() {
  const random = crypto.getRandomValues(new Uint32Array(1))[0].toString(36).slice(-4);
  byId("user").value = store.read("user", "") || "alice";
  byId("device").value = store.read("device", "") || `web-${random}`;
  byId("auto-ack").checked = store.read("auto-ack", false);
  publisher.aimAt(byId("user").value, byId("device").value);
  listen();
}

/** In the trial set-up it connects by itself: the first thing to see is that it works. */
async function start() {
  prepare();
  showState({ name: "connecting" });
  try {
    const config = await fetchJson("/demo/config");
    page.trial = config.trial;
    byId("tagline").textContent = config.trial ? `trial set-up, node ${config.node}` : `node ${config.node}`;
  } catch (error) {
    return showState({ name: "stopped", code: null, why: `${error.message} Load the page again.` });
  }
  for (const id of ["token-field", "key-field"]) byId(id).hidden = page.trial;
  byId("user-field").hidden = !page.trial;
  byId("identity").classList.toggle("single", !page.trial);
  byId("user").disabled = !page.trial;
  if (!page.trial) return showState({ name: "idle" });
  for (const topic of store.read("topics", ["news"])) follow(topic, true);
  connect();
}

start();
