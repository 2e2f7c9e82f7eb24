// When and how the client comes back: with a clock that the test moves and a server that the test plays.

import assert from "node:assert/strict";
import { test } from "node:test";

import { FanfareError } from "../dist/index.js";
import { collect, notification, scripted, settle, token, welcome } from "./support/scripted.mjs";

const state = ({ fanfare }) => fanfare.state.value;

test("it connects to the address below the url and says hello first", async () => {
  const { live, fanfare } = scripted({ url: "https://push.example.com/fanfare/" });
  const socket = await live();
  assert.equal(socket.url, "wss://push.example.com/fanfare/v1/connect");
  assert.deepEqual(socket.protocols, ["fanfare.v1"]);
  assert.deepEqual(socket.frames[0], { type: "hello", token: token(), device: "web-1", resume: {}, ping: true });
  assert.deepEqual(fanfare.state.value, { name: "live", node: "n1", connection: "0000000000000001", degraded: false });
});

test("it comes back within a limit that doubles from half a second to twenty seconds", async () => {
  const client = scripted();
  await client.open();
  const limits = [500, 1_000, 2_000, 4_000, 8_000, 16_000, 20_000, 20_000, 20_000];
  for (const [attempt, limit] of limits.entries()) {
    client.chance.value = 0.999;
    await client.last().end(1006);
    assert.equal(client.sockets.length, attempt + 1);
    assert.equal(Math.round(state(client).until - client.clock.now()), Math.round(limit * 0.999));
    await client.clock.advance(limit * 0.999 - 1);
    assert.equal(client.sockets.length, attempt + 1, "not before its time");
    await client.clock.advance(2);
    assert.equal(client.sockets.length, attempt + 2, "and then at once");
  }
});

test("any delay below the limit may be drawn, so that a crowd does not come back as one", async () => {
  for (const chance of [0, 0.25, 0.75]) {
    const client = scripted();
    client.chance.value = chance;
    await client.open();
    await client.last().end(1006);
    assert.equal(state(client).until - client.clock.now(), 500 * chance);
  }
});

test("it comes back when the server said, whatever the backoff would be", async () => {
  const client = scripted();
  const socket = await client.live();
  await socket.say({ type: "bye", code: 4000, reason: "draining", reconnect_after_ms: 3_120 });
  const until = client.clock.now() + 3_120;
  assert.deepEqual(state(client), { name: "waiting", code: 4000, reason: "draining", until });
  await client.clock.advance(3_119);
  assert.equal(client.sockets.length, 1);
  await client.clock.advance(1);
  assert.equal(client.sockets.length, 2);
});

for (const code of [4500, 4502, 4503, 4504, 4505, 4506, 4999, 1002, 1003, 1007, 1009]) {
  test(`it does not come back after ${code}`, async () => {
    const client = scripted();
    const socket = await client.live();
    await socket.end(code, "why");
    await client.clock.advance(3_600_000);
    client.fanfare.wake();
    await settle();
    assert.equal(client.sockets.length, 1);
    assert.deepEqual(state(client), { name: "stopped", code, reason: "why" });
  });
}

for (const code of [1000, 1001, 1006, 4000, 4001, 4002, 4003, 4004, 4005, 4006, 4007, 4008, 4499]) {
  test(`it comes back after ${code}`, async () => {
    const client = scripted();
    const socket = await client.live();
    await socket.end(code);
    await client.clock.advance(20_000);
    assert.equal(client.sockets.length, 2);
  });
}

test("what has stopped connects again when it is told to", async () => {
  const client = scripted();
  await (await client.live()).say({ type: "bye", code: 4500, reason: "displaced" });
  client.fanfare.connect();
  await client.live();
  assert.equal(state(client).name, "live");
});

test("a token that is refused is replaced once, and a second refusal is taken for an answer", async () => {
  let asked = 0;
  const client = scripted({ token: () => token({ exp: 4_000_000_000, jti: ++asked }) });
  await (await client.open()).say({ type: "bye", code: 4501, reason: "invalid_token" });
  await client.clock.advance(500);
  const socket = await client.open();
  assert.equal(asked, 2);
  assert.equal(socket.frames[0].token, token({ exp: 4_000_000_000, jti: 2 }));
  await socket.say({ type: "bye", code: 4501, reason: "invalid_token" });
  await client.clock.advance(3_600_000);
  assert.equal(client.sockets.length, 2);
  assert.equal(state(client).name, "stopped");
});

test("after 4001 it brings a new token, although the old one looks good", async () => {
  let asked = 0;
  const client = scripted({ token: () => token({ exp: 4_000_000_000, jti: ++asked }) });
  await (await client.live()).say({ type: "bye", code: 4001, reason: "token_expired" });
  await client.clock.advance(500);
  assert.equal(asked, 2);
});

test("a token that is still good is used again", async () => {
  let asked = 0;
  const client = scripted({ token: () => token({ exp: 4_000_000_000, jti: ++asked }) });
  await (await client.live()).end(1006);
  await client.clock.advance(500);
  await client.live();
  assert.equal(asked, 1);
});

test("a connection that lasted ten seconds starts the limits anew, a shorter one does not", async () => {
  const client = scripted();
  client.chance.value = 0.999;
  const delay = async (lasts) => {
    const socket = await client.live();
    await client.clock.advance(lasts);
    await socket.end(1006);
    const found = state(client).until - client.clock.now();
    await client.clock.advance(found);
    return Math.round(found / 0.999);
  };
  assert.deepEqual([await delay(1_000), await delay(1_000), await delay(10_000), await delay(0)], [500, 1_000, 500, 1_000]);
});

test("a server that is silent for more than two heartbeats is taken for dead", async () => {
  const client = scripted();
  const socket = await client.live();
  await client.clock.advance(2 * 25_000);
  assert.equal(state(client).name, "live");
  await client.clock.advance(6_251);
  assert.equal(state(client).name, "waiting");
  assert.equal(socket.closedWith, 1000);
});

test("any frame shows that the server lives, and a ping is answered", async () => {
  const client = scripted();
  const socket = await client.live();
  for (let ping = 0; ping < 5; ping++) {
    await client.clock.advance(50_000);
    await socket.say({ type: "ping" });
  }
  assert.equal(state(client).name, "live");
  assert.equal(socket.sent("pong").length, 5);
});

test("an attempt without welcome is given up after twenty seconds, and its late answer means nothing", async () => {
  const client = scripted();
  const socket = await client.open();
  const answer = socket.onmessage;
  await client.clock.advance(20_000);
  assert.equal(state(client).name, "waiting");
  answer({ data: JSON.stringify(welcome()) });
  assert.equal(state(client).name, "waiting");
});

test("a token that cannot be had is asked for again, with the same backoff", async () => {
  let asked = 0;
  const client = scripted({
    token: async () => {
      if (++asked < 3) throw new Error("no network");
      return token();
    },
  });
  await settle();
  assert.equal(state(client).reason, "Error: no network");
  await client.clock.advance(1_500);
  assert.equal(asked, 3);
  await client.live();
});

test("a token that never comes holds up nothing for ever", async () => {
  let asked = 0;
  const client = scripted({ token: () => (++asked === 1 ? new Promise(() => {}) : token()) });
  await client.clock.advance(20_000);
  assert.equal(state(client).name, "waiting");
});

test("waking skips its own delay", async () => {
  const client = scripted();
  await (await client.live()).end(1006);
  client.fanfare.wake();
  await settle();
  assert.equal(client.sockets.length, 2);
});

test("waking keeps to the delay that the server named", async () => {
  const client = scripted();
  await (await client.live()).say({ type: "bye", code: 4000, reason: "draining", reconnect_after_ms: 9_000 });
  client.fanfare.wake();
  await settle();
  assert.equal(client.sockets.length, 1);
  await client.clock.advance(9_000);
  assert.equal(client.sockets.length, 2);
});

test("waking asks a live connection for a sign, and five seconds of silence are its end", async () => {
  const client = scripted();
  const socket = await client.live();
  client.fanfare.wake();
  assert.equal(socket.sent("ping").length, 1);
  await socket.say({ type: "pong" });
  await client.clock.advance(5_000);
  assert.equal(state(client).name, "live");
  client.fanfare.wake();
  await client.clock.advance(5_000);
  assert.equal(state(client).name, "waiting");
});

test("a runtime that refuses to open a socket is tried again, and says why", async () => {
  let refuse = true;
  const sockets = [];
  class Socket {
    constructor() {
      if (refuse) throw new Error("not allowed here");
      sockets.push(this);
    }
    close() {}
  }
  const client = scripted({ WebSocket: Socket });
  await settle();
  assert.equal(state(client).reason, "Error: not allowed here");
  refuse = false;
  await client.clock.advance(500);
  assert.equal(sockets.length, 1);
});

test("it refreshes the token before it runs out, by the server's clock", async () => {
  let now;
  const client = scripted({ token: () => token({ exp: now / 1000 + 600 }) });
  // The server is an hour ahead, so that by our clock every token would last an hour longer.
  now = client.clock.now() + 3_600_000;
  const socket = await client.live({ time: new Date(now).toISOString() });
  const beat = async (ms) => {
    for (let passed = 0; passed < ms; passed += 20_000) {
      await client.clock.advance(20_000);
      await socket.say({ type: "ping" });
    }
  };
  await beat(520_000);
  assert.equal(socket.sent("refresh").length, 0);
  now += 540_000;
  await beat(20_000);
  const [refresh] = socket.sent("refresh");
  assert.equal(refresh.token, token({ exp: now / 1000 + 600 }));
  await socket.say({ type: "refreshed", id: refresh.id, expires_at: "2027-01-15T09:00:00Z" });
  await beat(520_000);
  assert.equal(socket.sent("refresh").length, 1);
  now += 540_000;
  await beat(20_000);
  assert.equal(socket.sent("refresh").length, 2);
});

test("a refresh that the server cannot do now is tried again before the token runs out", async () => {
  const client = scripted({ token: () => token({ exp: 1_800_000_100 }) });
  const errors = collect(client.fanfare, "error");
  const socket = await client.live();
  await client.clock.advance(56_000);
  await socket.say({ type: "ping" });
  await client.clock.advance(24_000);
  const [refresh] = socket.sent("refresh");
  await socket.say({ type: "error", id: refresh.id, code: "unavailable", message: "later", retry: true });
  await client.clock.advance(16_000);
  assert.equal(socket.sent("refresh").length, 2);
  assert.deepEqual(errors, []);
  const [, second] = socket.sent("refresh");
  await socket.say({ type: "error", id: second.id, code: "other_user", message: "not you", retry: false });
  assert.ok(errors[0] instanceof FanfareError);
  assert.equal(errors[0].code, "other_user");
});

test("after close nothing happens any more", async () => {
  const client = scripted();
  const seen = collect(client.fanfare, "notification");
  const socket = await client.live();
  const answer = socket.onmessage;
  client.fanfare.close();
  answer({ data: JSON.stringify(notification(1)) });
  client.fanfare.wake();
  await client.clock.advance(3_600_000);
  assert.equal(client.sockets.length, 1);
  assert.equal(socket.closedWith, 1000);
  assert.deepEqual([state(client).name, seen.length], ["closed", 0]);
});

test("an observer that throws stops neither the others nor the client", async (context) => {
  const said = context.mock.method(console, "warn", () => {});
  const client = scripted();
  const seen = [];
  client.fanfare.state.subscribe(() => {
    throw new Error("mine");
  });
  const off = client.fanfare.state.subscribe(({ name }) => seen.push(name));
  await client.live();
  off();
  await client.last().end(1006);
  assert.deepEqual(seen, ["idle", "connecting", "live"]);
  assert.equal(said.mock.callCount(), 4);
});
