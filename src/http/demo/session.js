// A device of a user: what it follows, has received and has acknowledged, over one
// connection after another. Tells the page through the callbacks in `on`.

import { Connection } from "./connection.js";
import { Positions } from "./positions.js";

// Acks are cumulative, so those of one moment go as one frame per stream.
const ACK_LINGER_MS = 40;
const COUNT_LINGER_MS = 300;
// Refresh this long before the token runs out, or after 4/5 of a short life.
const REFRESH_AHEAD_MS = 60_000;

export class Session {
  /**
   * `identity`: `{user, device, topics}`, `credentials()`: resolves to `{token, expiresAt}`.
   * `on`: `state(state)`, `frame(direction, frame)`, `notification(frame, epoch)`, `cancelled(frame)`,
   * `read(frame)`, `unread(count)`, `streams()`, `topic(name, status)`, `gap(frame)`, `error(frame)`, `note(text)`.
   */
  constructor({ identity, credentials, on }) {
    this.identity = identity;
    this.credentials = credentials;
    this.on = on;
    this.positions = new Positions(identity.user, identity.device);
    this.autoAck = false;
    this.unread = { unread: 0, version: 0 };
    this.pendingAcks = new Map();
    this.requests = new Map();
    this.nextId = 1;
    const scheme = location.protocol === "https:" ? "wss" : "ws";
    this.connection = new Connection({
      url: `${scheme}://${location.host}/v1/connect`,
      hello: () => this.hello(),
      onState: (state) => this.changed(state),
      onFrame: (direction, frame) => this.framed(direction, frame),
    });
  }

  async hello() {
    const { token, expiresAt } = await this.credentials();
    this.expiresAt = expiresAt;
    this.token = token;
    const { device, topics } = this.identity;
    return {
      type: "hello",
      token,
      device,
      ack: "manual",
      topics: [...topics],
      ping: true,
      resume: this.positions.resume([...topics]),
    };
  }

  changed(state) {
    if (state.name === "live") this.welcomed(state.welcome);
    else this.detached();
    this.on.state(state);
    this.on.streams();
  }

  welcomed(welcome) {
    this.counted(welcome);
    welcome.streams.forEach((stream) => this.positions.follow(stream));
    for (const topic of this.identity.topics) {
      const followed = this.positions.streams.get(`topic:${topic}`)?.followed;
      this.on.topic(topic, followed ? "on" : "off");
    }
    this.scheduleRefresh();
  }

  detached() {
    clearTimeout(this.refreshTimer);
    clearTimeout(this.countTimer);
    this.countTimer = null;
    this.positions.detach();
    this.requests.clear();
    for (const topic of this.identity.topics) this.on.topic(topic, "waiting");
  }

  framed(direction, frame) {
    this.on.frame(direction, frame);
    if (direction === "in") this.handlers[frame.type]?.call(this, frame);
  }

  handlers = {
    welcome() {
      // Only now may frames be sent: the acks that the last connection perhaps lost.
      for (const [stream, seq] of this.positions.unsureAcks()) this.connection.send({ type: "ack", stream, seq });
    },
    notification(frame) {
      const { stream, seq } = frame;
      // `ttl: 0` is not in any stream: there is no seq to compare and nothing to acknowledge.
      if (seq !== undefined && seq !== null && !this.positions.accept(stream, seq)) {
        return this.on.note(`Dropped a double: ${stream} ${seq}`);
      }
      this.on.notification(frame, this.positions.epoch(stream));
      if (this.autoAck && seq) this.ack(stream, seq);
      this.countSoon();
      this.on.streams();
    },
    cancelled(frame) {
      const { stream, seq } = frame;
      if (!this.positions.accept(stream, seq)) return this.on.note(`Dropped a double: ${stream} ${seq}`);
      this.on.cancelled(frame);
      this.countSoon();
      this.on.streams();
    },
    read(frame) {
      this.on.read(frame);
      this.counted(frame);
    },
    caught_up({ stream, through }) {
      this.positions.passed(stream, through);
      this.on.streams();
    },
    gap(frame) {
      this.pendingAcks.delete(frame.stream);
      this.positions.gap(frame);
      this.on.gap(frame);
      this.on.streams();
    },
    subscribed(frame) {
      this.answered(frame.id);
      this.positions.follow(frame);
      this.on.topic(frame.stream.replace(/^topic:/, ""), "on");
      this.on.streams();
    },
    unsubscribed({ stream }) {
      // Asked for, it is gone from the list already; else a newer token no longer allows it.
      const topic = stream.replace(/^topic:/, "");
      this.positions.unfollow(stream);
      if (this.identity.topics.has(topic)) this.refused(topic);
      this.on.streams();
    },
    refreshed({ expires_at: expiresAt }) {
      this.expiresAt = expiresAt;
      this.scheduleRefresh();
    },
    error(frame) {
      const request = this.answered(frame.id);
      if (request?.topic) this.refused(request.topic);
      this.on.error(frame);
    },
  };

  /** Not asked for again: a `hello` with a topic that the token does not allow is refused as a whole. */
  refused(topic) {
    this.identity.topics.delete(topic);
    this.on.topic(topic, "off");
  }

  answered(id) {
    const request = this.requests.get(id);
    this.requests.delete(id);
    return request;
  }

  /** Acknowledges everything up to `seq`; goes out now, or with the next connection. */
  ack(stream, seq) {
    if (!this.positions.ack(stream, seq)) return;
    if (this.pendingAcks.size === 0) setTimeout(() => this.flushAcks(), ACK_LINGER_MS);
    this.pendingAcks.set(stream, seq);
    this.on.streams();
  }

  /** Acknowledges all that has arrived. */
  ackReceived(stream) {
    this.ack(stream, this.positions.received(stream));
  }

  /** Says that somebody has read these; every device of the user hears it. */
  read(stream, ids) {
    return this.connection.send({ type: "read", id: this.nextId++, stream, ids });
  }

  /** Of two counts the one with the higher version is right. */
  counted({ unread, version }) {
    if (version < this.unread.version) return;
    this.unread = { unread, version };
    this.on.unread(unread);
  }

  /** What arrives changes the count, too; a burst is counted once. */
  countSoon() {
    this.countTimer ??= setTimeout(() => this.count(), COUNT_LINGER_MS);
  }

  async count() {
    this.countTimer = null;
    try {
      const headers = { Authorization: `Bearer ${this.token}` };
      const answer = await fetch("/v1/inbox/unread", { headers, signal: AbortSignal.timeout(5_000) });
      if (answer.ok) this.counted(await answer.json());
    } catch {
      // The next frame or connection counts again.
    }
  }

  flushAcks() {
    for (const [stream, seq] of this.pendingAcks) this.connection.send({ type: "ack", stream, seq });
    this.pendingAcks.clear();
    this.positions.save();
  }

  subscribe(topic) {
    this.identity.topics.add(topic);
    const id = this.nextId++;
    const sent = this.connection.send({ type: "subscribe", id, topic });
    if (sent) this.requests.set(id, { topic });
    this.on.topic(topic, "waiting");
  }

  unsubscribe(topic) {
    this.identity.topics.delete(topic);
    this.positions.unfollow(`topic:${topic}`);
    this.connection.send({ type: "unsubscribe", id: this.nextId++, topic });
    this.on.topic(topic, "gone");
    this.on.streams();
  }

  /** Goes on with another token of the same user, without a new connection. */
  refresh(token) {
    return this.connection.send({ type: "refresh", id: this.nextId++, token });
  }

  scheduleRefresh() {
    clearTimeout(this.refreshTimer);
    if (!this.expiresAt) return;
    const left = new Date(this.expiresAt) - Date.now();
    const delay = Math.max(left - REFRESH_AHEAD_MS, left * 0.8, 1_000);
    // Longer delays than a timer can hold (24.8 days) would fire at once.
    if (delay < 2 ** 31) this.refreshTimer = setTimeout(() => this.renew(), delay);
  }

  async renew() {
    try {
      const { token, expiresAt } = await this.credentials();
      this.expiresAt = expiresAt;
      this.token = token;
      this.refresh(token);
    } catch (error) {
      this.on.note(`No new token: ${error.message}`);
    }
  }

  close() {
    this.connection.disconnect();
  }
}
