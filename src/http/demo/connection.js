// One connection to Fanfare that comes back by itself. Owns the socket, its timers and
// the state that people see; knows nothing of streams, acks or the page.
//
// States: idle | connecting | live {welcome} | waiting {until, why} | stopped {code, why}.

import { SUBPROTOCOL, backoffMs, comesBack, meaning } from "./protocol.js";

const WELCOME_DEADLINE_MS = 10_000;
// A connection that lasted this long was a good one: backoff starts from the beginning.
const STEADY_MS = 10_000;

export class Connection {
  /**
   * `hello()` resolves to the hello frame; an error with `final` set stops for good.
   * `onState(state)`, `onFrame("in" | "out", frame)`.
   */
  constructor({ url, hello, onState, onFrame }) {
    Object.assign(this, { url, hello, onState, onFrame });
    this.state = { name: "idle" };
    this.socket = null;
    this.attempt = 0;
    // Rises whenever what is under way is abandoned, so that late answers find out.
    this.generation = 0;
    // The network is back, or the tab (whose timers slept) is looked at again: do not sit out the delay.
    const hurry = () => this.state.name === "waiting" && !document.hidden && this.connect();
    window.addEventListener("online", hurry);
    document.addEventListener("visibilitychange", hurry);
  }

  /** Connects now, whatever was before. */
  async connect() {
    const generation = this.abandon();
    this.setState({ name: "connecting" });
    let hello;
    try {
      hello = await this.hello();
    } catch (error) {
      if (generation !== this.generation) return;
      if (error.final) this.setState({ name: "stopped", code: null, why: error.message });
      else this.comeBack(backoffMs(this.attempt++), error.message);
      return;
    }
    if (generation === this.generation) this.open(hello);
  }

  /** Leaves, and stays away until `connect`. */
  disconnect() {
    this.abandon();
    this.setState({ name: "idle" });
  }

  /** Sends a frame; false if there is no live connection to send it on. */
  send(frame) {
    if (this.state.name !== "live") return false;
    this.transmit(frame);
    return true;
  }

  open(hello) {
    const socket = new WebSocket(this.url, [SUBPROTOCOL]);
    this.socket = socket;
    this.bye = null;
    this.expectWithin(WELCOME_DEADLINE_MS);
    socket.onopen = () => this.transmit(hello);
    socket.onmessage = (event) => this.receive(event.data);
    socket.onclose = (event) => this.closed(event.code, event.reason);
  }

  transmit(frame) {
    this.socket.send(JSON.stringify(frame));
    this.onFrame("out", frame);
  }

  receive(text) {
    let frame;
    try {
      frame = JSON.parse(text);
    } catch {
      return this.closed(1002, "the server sent something that is not JSON");
    }
    if (frame.type === "welcome") this.welcomed(frame);
    if (this.heartbeatMs) this.expectWithin(this.heartbeatMs * 2.5);
    this.onFrame("in", frame);
    if (frame.type === "ping") this.transmit({ type: "pong" });
    if (frame.type === "bye") this.bye = frame;
  }

  welcomed(welcome) {
    this.heartbeatMs = welcome.heartbeat_ms;
    this.steady = setTimeout(() => (this.attempt = 0), STEADY_MS);
    this.setState({ name: "live", welcome });
  }

  closed(closeCode, reason) {
    const bye = this.bye;
    // What `bye` said holds, even if the close frame after it was lost with the connection.
    const code = bye?.code ?? closeCode;
    this.abandon();
    const why = meaning(code, bye?.reason || reason);
    if (!comesBack(code)) return this.setState({ name: "stopped", code, why });
    const delay = bye?.reconnect_after_ms ?? backoffMs(this.attempt);
    this.attempt += 1;
    this.comeBack(delay, why);
  }

  comeBack(delay, why) {
    this.setState({ name: "waiting", until: Date.now() + delay, why });
    this.retry = setTimeout(() => this.connect(), delay);
  }

  /** A silent network drop closes nothing by itself; silence for too long does it here. */
  expectWithin(ms) {
    clearTimeout(this.silence);
    this.silence = setTimeout(() => this.closed(1006, ""), ms);
  }

  abandon() {
    for (const timer of [this.retry, this.silence, this.steady]) clearTimeout(timer);
    this.heartbeatMs = null;
    const socket = this.socket;
    this.socket = null;
    if (socket) {
      socket.onopen = socket.onmessage = socket.onclose = null;
      socket.close(1000);
    }
    return ++this.generation;
  }

  setState(state) {
    this.state = state;
    this.onState(state);
  }
}
