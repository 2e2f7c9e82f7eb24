// One embedded node as a process of this test: its configuration, its tokens, its publisher, and what is done to it.
// Nothing outlives the test file: nodes are killed and their folders removed at its end.

import { spawn } from "node:child_process";
import { createHash, createHmac, randomBytes } from "node:crypto";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after } from "node:test";

import WebSocket from "ws";

import { Fanfare } from "../../dist/index.js";
import { until, within } from "./waiting.mjs";

const PROGRAM = process.env.FANFARE;
if (!PROGRAM) throw new Error("FANFARE must name the program `fanfare`; clients/js/test sees to it");

export async function freePort() {
  const server = createServer();
  await new Promise((ready) => server.listen(0, "127.0.0.1", ready));
  const { port } = server.address();
  await new Promise((closed) => server.close(closed));
  return port;
}

const encode = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");

export class Server {
  #folder = mkdtempSync(join(tmpdir(), "fanfare-js-"));
  #secret = randomBytes(32).toString("hex");
  #key = `ffk_shop_${randomBytes(24).toString("hex")}`;
  #admin = `ffa_${randomBytes(24).toString("hex")}`;
  #origins;
  #process;
  #log = "";

  static async start({ origins = [] } = {}) {
    const server = new Server();
    server.#origins = origins;
    after(() => server.#remove());
    process.on("exit", () => server.#process.kill("SIGKILL"));
    server.port = await freePort();
    await server.restart();
    return server;
  }

  get url() {
    return `http://127.0.0.1:${this.port}`;
  }

  /** Starts it, again or for the first time, perhaps elsewhere; its data stay. */
  async restart(port = this.port) {
    this.port = port;
    this.adminPort = await freePort();
    const config = join(this.#folder, "node.toml");
    writeFileSync(config, this.#config());
    const child = spawn(PROGRAM, ["serve", "--config", config], { cwd: this.#folder, env: { PATH: process.env.PATH } });
    this.#process = child;
    for (const output of [child.stdout, child.stderr]) {
      output.on("data", (text) => (this.#log += text));
      output.unref();
    }
    // The hooks at the end of a test file run when nothing holds its process any more.
    child.unref();
    await within(this.#ready(child), "the node is ready", () => this.#log);
  }

  async #ready(child) {
    for (;;) {
      if (child.exitCode !== null) throw new Error(`the node ended with ${child.exitCode}`);
      const answer = await fetch(`http://127.0.0.1:${this.adminPort}/readyz`).catch(() => undefined);
      if (answer?.status === 200) return;
      await new Promise((look) => setTimeout(look, 20));
    }
  }

  #config() {
    const hash = (text) => createHash("sha256").update(text).digest("hex");
    return `data_dir = "${this.#folder}/data"
      http = { listen = "127.0.0.1:${this.port}", allowed_origins = ${JSON.stringify(this.#origins)} }
      admin = { listen = "127.0.0.1:${this.adminPort}" }
      gateway = { heartbeat_ms = 1000 }
      presence = { ttl_ms = 3000 }
      drain = { deadline_ms = 4000, window_ms = 100, spread_ms = 1000 }
      [auth.users]
      secret = "${this.#secret}"
      leeway_ms = 0
      [[auth.publishers]]
      id = "shop"
      key_hashes = ["${hash(this.#key)}"]
      [[auth.admin]]
      id = "ops"
      token_hash = "${hash(this.#admin)}"`;
  }

  /** A token as an application's backend would sign it. */
  token(sub, { seconds = 3_600, topics = ["#"], ...claims } = {}) {
    const exp = Math.floor(Date.now() / 1000) + seconds;
    const signed = `${encode({ alg: "HS256", typ: "JWT" })}.${encode({ sub, exp, topics, ...claims })}`;
    return `${signed}.${createHmac("sha256", this.#secret).update(signed).digest("base64url")}`;
  }

  /** Publishes, to a user unless `content.to` says otherwise. */
  async publish(user, content) {
    const answer = await this.#post("/v1/notifications", this.#key, { to: { users: [user] }, ...content });
    if (!answer.ok) throw new Error(`${answer.status} ${await answer.text()}`);
    return (await answer.json()).id;
  }

  cancel(id) {
    const headers = { Authorization: `Bearer ${this.#key}` };
    return fetch(`${this.url}/v1/notifications/${id}`, { method: "DELETE", headers });
  }

  #post(path, key, body) {
    const headers = { Authorization: `Bearer ${key}`, "Content-Type": "application/json" };
    return fetch(`${this.url}${path}`, { method: "POST", headers, body: JSON.stringify(body) });
  }

  /** Waits until a device has acknowledged the notification. */
  delivered(id) {
    const headers = { Authorization: `Bearer ${this.#key}` };
    const ask = async () => (await fetch(`${this.url}/v1/notifications/${id}`, { headers })).json();
    return until(async () => (await ask()).counts.delivered === 1, `${id} is acknowledged`);
  }

  /** What the node knows of a user's connections. */
  async connections(user) {
    const url = `http://127.0.0.1:${this.adminPort}/admin/connections?user=${user}`;
    const answer = await fetch(url, { headers: { Authorization: `Bearer ${this.#admin}` } });
    return (await answer.json()).connections;
  }

  async unread(user) {
    const headers = { Authorization: `Bearer ${this.token(user)}` };
    return (await (await fetch(`${this.url}/v1/inbox/unread`, { headers })).json()).unread;
  }

  freeze() {
    this.#process.kill("SIGSTOP");
  }

  thaw() {
    this.#process.kill("SIGCONT");
  }

  /** SIGTERM: clients are sent away in order. */
  stop() {
    return this.#end("SIGTERM");
  }

  kill() {
    return this.#end("SIGKILL");
  }

  async #end(signal) {
    const child = this.#process;
    if (child.exitCode !== null || child.signalCode !== null) return;
    const ended = new Promise((exit) => child.once("exit", exit));
    child.kill(signal);
    await within(ended, "the node ends", () => this.#log);
  }

  async #remove() {
    this.thaw();
    await this.kill();
    rmSync(this.#folder, { recursive: true });
  }
}

/** A client of this process; closed at the end of the test. */
export function client(context, server, user, options = {}) {
  const token = () => server.token(user);
  const fanfare = new Fanfare({ url: server.url, device: "node-1", token, WebSocket, ...options });
  context.after(() => fanfare.close());
  return fanfare;
}
