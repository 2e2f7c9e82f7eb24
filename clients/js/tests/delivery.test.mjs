// What becomes of what arrives: handlers, acknowledgements, doubles, gaps, topics. The server is played by the test.

import assert from "node:assert/strict";
import { test } from "node:test";

import { collect, notification, scripted, settle } from "./support/scripted.mjs";

const acks = (socket) => socket.sent("ack").map(({ stream, seq }) => `${stream} ${seq}`);
const titles = (events) => events.map(({ title }) => title);

/** A promise that the test settles. */
function gate() {
  const made = {};
  made.opened = new Promise((open, fail) => Object.assign(made, { open, fail }));
  return made;
}

test("a notification has its content, its place and whether it was read", async () => {
  const client = scripted();
  const seen = collect(client.fanfare, "notification");
  const socket = await client.live();
  await socket.say({ ...notification(1), read: true }, notification(2, "everyone"));
  assert.deepEqual(seen, [
    { id: "id-user-1", title: "n1", stream: "user", epoch: "k1", seq: 1, read: true },
    { id: "id-everyone-2", title: "n2", stream: "everyone", epoch: "k1", seq: 2, read: false },
  ]);
});

test("what was handled in one moment is acknowledged by one frame for each stream", async () => {
  const client = scripted();
  collect(client.fanfare, "notification");
  const socket = await client.live();
  await socket.say(notification(1), notification(2), notification(3), notification(1, "everyone"));
  assert.deepEqual(acks(socket), []);
  await client.clock.advance(40);
  assert.deepEqual(acks(socket), ["user 3", "everyone 1"]);
});

test("nothing is acknowledged before its handler succeeded, and the next of its stream waits for it", async () => {
  const client = scripted();
  const gates = [gate(), gate()];
  const seen = [];
  client.fanfare.on("notification", ({ stream, seq }) => {
    seen.push(`${stream} ${seq}`);
    return stream === "user" ? gates[seq - 1].opened : undefined;
  });
  const socket = await client.live();
  await socket.say(notification(1), notification(2), notification(1, "everyone"));
  await client.clock.advance(1_000);
  assert.deepEqual(seen, ["user 1", "everyone 1"]);
  assert.deepEqual(acks(socket), ["everyone 1"]);
  gates[0].open();
  await client.clock.advance(1_000);
  assert.deepEqual(acks(socket), ["everyone 1", "user 1"]);
});

test("a handler that fails is told, and gets the same again after a pause, before anything else of the stream", async () => {
  const client = scripted();
  const errors = collect(client.fanfare, "error");
  const seen = [];
  let broken = true;
  client.fanfare.on("notification", async ({ seq }) => {
    seen.push(seq);
    if (broken) throw new Error("no disk");
  });
  const socket = await client.live();
  await socket.say(notification(1), notification(2));
  assert.deepEqual(seen, [1]);
  assert.deepEqual([errors[0].code, errors[0].message, errors[0].about.message], ["handler_failed", "Error: no disk", "no disk"]);
  await client.clock.advance(499);
  assert.deepEqual(seen, [1]);
  await client.clock.advance(1);
  assert.deepEqual(seen, [1, 1]);
  broken = false;
  await client.clock.advance(2_000);
  assert.deepEqual(seen, [1, 1, 1, 2]);
  assert.deepEqual(acks(socket), ["user 2"]);
});

test("without a handler notifications wait for one", async () => {
  const client = scripted();
  const socket = await client.live();
  await socket.say(notification(1), notification(2));
  await client.clock.advance(1_000);
  assert.deepEqual(acks(socket), []);
  const seen = collect(client.fanfare, "notification");
  await client.clock.advance(1_000);
  assert.deepEqual(titles(seen), ["n1", "n2"]);
  assert.deepEqual(acks(socket), ["user 2"]);
});

test("a handler that was taken away gets nothing more", async () => {
  const client = scripted();
  const seen = [];
  const off = client.fanfare.on("notification", ({ seq }) => void seen.push(seq));
  const socket = await client.live();
  await socket.say(notification(1));
  off();
  await socket.say(notification(2));
  assert.deepEqual(seen, [1]);
});

test("acknowledged by hand, everything up to it is, and a handler that fails changes nothing", async () => {
  const client = scripted({ ack: "manual" });
  collect(client.fanfare, "error");
  const seen = [];
  client.fanfare.on("notification", (one) => {
    seen.push(one);
    throw new Error("mine");
  });
  const socket = await client.live();
  await socket.say(notification(1), notification(2), notification(3));
  await client.clock.advance(60);
  assert.deepEqual(titles(seen), ["n1", "n2", "n3"]);
  assert.deepEqual(acks(socket), []);
  client.fanfare.ack(seen[1]);
  await client.clock.advance(40);
  assert.deepEqual(acks(socket), ["user 2"]);
});

test("acknowledged by hand or not, what nobody can acknowledge does not hold up the rest", async () => {
  const client = scripted({ ack: "manual" });
  const seen = collect(client.fanfare, "notification");
  const socket = await client.live();
  await socket.say(notification(1), { type: "cancelled", stream: "user", seq: 2, id: "id-user-1" });
  client.fanfare.ack(seen[0]);
  await client.clock.advance(40);
  assert.deepEqual(acks(socket), ["user 2"]);
});

test("a double of the same life of a stream is dropped, also on another connection", async () => {
  const client = scripted();
  const seen = collect(client.fanfare, "notification");
  const first = await client.live();
  await first.say(notification(1), notification(1), notification(2), notification(1));
  await first.end(1006);
  await client.clock.advance(500);
  const second = await client.live({ heads: { user: 2 } });
  await second.say(notification(1), notification(2), notification(3));
  assert.deepEqual(titles(seen), ["n1", "n2", "n3"]);
});

test("the same seq in another life of the stream is no double", async () => {
  const client = scripted();
  const seen = collect(client.fanfare, "notification");
  const gaps = collect(client.fanfare, "gap");
  const first = await client.live();
  await first.say(notification(1), notification(2));
  await first.say({ type: "bye", code: 4006, reason: "stream_reset", reconnect_after_ms: 10 });
  await client.clock.advance(10);
  const second = await client.live({ epoch: "k2", gap: true });
  await second.say(notification(1), notification(2));
  assert.deepEqual(titles(seen), ["n1", "n2", "n1", "n2"]);
  assert.deepEqual(gaps[0], { stream: "user", seq: 0, to: 0 });
});

test("a handler that began in another life of the stream acknowledges nothing in this one", async () => {
  const client = scripted();
  const doors = [gate(), gate()];
  let calls = 0;
  client.fanfare.on("notification", () => doors[calls++].opened);
  const first = await client.live();
  await first.say(notification(1));
  await first.say({ type: "bye", code: 4006, reason: "stream_reset", reconnect_after_ms: 10 });
  await client.clock.advance(10);
  const second = await client.live({ epoch: "k2", gap: true });
  await second.say(notification(1));
  doors[0].open();
  await client.clock.advance(1_000);
  assert.deepEqual([calls, acks(second)], [2, []]);
  doors[1].open();
  await client.clock.advance(1_000);
  assert.deepEqual(acks(second), ["user 1"]);
});

test("it resumes after what is acknowledged, and says again what may not have arrived", async () => {
  const client = scripted();
  const doors = [gate()];
  client.fanfare.on("notification", ({ seq }) => seq === 6 && doors[0].opened);
  const first = await client.live({ heads: { user: 4, everyone: 9 } });
  await first.say(notification(5), notification(6), { type: "caught_up", stream: "everyone", through: 12 });
  await first.end(1006);
  await client.clock.advance(500);
  const second = await client.live({ heads: { user: 6, everyone: 12 } });
  assert.deepEqual(second.frames[0].resume, { user: { epoch: "k1", seq: 5 }, everyone: { epoch: "k1", seq: 12 } });
  await client.clock.advance(40);
  assert.deepEqual(acks(second), ["user 5", "everyone 9"]);
  doors[0].open();
  await client.clock.advance(40);
  assert.deepEqual(acks(second), ["user 5", "everyone 9", "user 6"]);
});

test("a gap is told between what comes before and after it, and acknowledged like a notification", async () => {
  const client = scripted();
  const seen = [];
  for (const name of ["notification", "gap"]) client.fanfare.on(name, ({ seq, from, to }) => void seen.push([name, seq, from, to]));
  const socket = await client.live();
  await socket.say(notification(1), { type: "gap", stream: "user", epoch: "k1", from: 2, to: 7 });
  await client.clock.advance(40);
  assert.deepEqual(acks(socket), ["user 7"]);
  await socket.say(notification(8));
  assert.deepEqual(seen, [["notification", 1, undefined, undefined], ["gap", 7, 2, 7], ["notification", 8, undefined, undefined]]);
});

test("a gap that welcome tells of is acknowledged once it was told", async () => {
  const client = scripted();
  const gaps = collect(client.fanfare, "gap");
  const socket = await client.live({ from: { user: 40 }, heads: { user: 50, everyone: 0 }, gap: true });
  await client.clock.advance(40);
  assert.deepEqual(gaps.map(({ stream, to }) => [stream, to]), [["user", 40], ["everyone", 0]]);
  assert.deepEqual(acks(socket), ["user 40"]);
});

test("what was taken back is told in its place", async () => {
  const client = scripted();
  const order = [];
  client.fanfare.on("notification", ({ id }) => void order.push(id));
  client.fanfare.on("cancelled", ({ id }) => void order.push(`not ${id}`));
  const socket = await client.live();
  await socket.say(notification(1), { type: "cancelled", stream: "user", seq: 2, id: "id-user-1" }, notification(3));
  await client.clock.advance(40);
  assert.deepEqual(order, ["id-user-1", "not id-user-1", "id-user-3"]);
  assert.deepEqual(acks(socket), ["user 3"]);
});

test("now or never goes to the handlers at once and is not acknowledged", async () => {
  const client = scripted();
  const seen = [];
  client.fanfare.on("notification", ({ seq }) => {
    seen.push(seq);
    return seq ? new Promise(() => {}) : undefined;
  });
  const socket = await client.live();
  await socket.say(notification(1), notification(undefined), notification(undefined));
  await client.clock.advance(40);
  assert.deepEqual(seen, [1, undefined, undefined]);
  assert.deepEqual(acks(socket), []);
});

test("frames and fields that it does not know are passed over", async () => {
  const client = scripted();
  const seen = collect(client.fanfare, "notification");
  const socket = await client.live({ novelty: true });
  await socket.say({ type: "novelty" }, { ...notification(1), novelty: true });
  assert.deepEqual(titles(seen), ["n1"]);
});

test("text that is no frame ends the connection for good", async () => {
  const client = scripted();
  const socket = await client.live();
  socket.onmessage({ data: "<html>" });
  await client.clock.advance(3_600_000);
  assert.deepEqual(client.fanfare.state.value, { name: "stopped", code: 1002, reason: "not JSON" });
});

test("a loop handles one after the other, and each counts as handled when the next is asked for", async () => {
  const client = scripted();
  const loop = client.fanfare[Symbol.asyncIterator]();
  const first = loop.next();
  const socket = await client.live();
  await socket.say(notification(1), notification(2));
  assert.equal((await first).value.title, "n1");
  await client.clock.advance(1_000);
  assert.deepEqual(acks(socket), []);
  assert.equal((await loop.next()).value.title, "n2");
  await client.clock.advance(40);
  assert.deepEqual(acks(socket), ["user 1"]);
});

test("a loop that is left leaves what it had for the next one", async () => {
  const client = scripted();
  const errors = collect(client.fanfare, "error");
  const socket = await client.open();
  const loop = (async () => {
    for await (const { title } of client.fanfare) if (title === "n2") return title;
  })();
  await settle();
  await client.live();
  await socket.say(notification(1), notification(2));
  assert.equal(await loop, "n2");
  const next = client.fanfare[Symbol.asyncIterator]().next();
  await client.clock.advance(1_000);
  assert.equal((await next).value.title, "n2");
  assert.deepEqual(acks(socket), ["user 1"]);
  assert.deepEqual(errors, []);
});

test("a loop ends when the client is closed, and throws when it has stopped", async () => {
  const client = scripted();
  const ended = client.fanfare[Symbol.asyncIterator]().next();
  await client.live();
  client.fanfare.close();
  assert.deepEqual(await ended, { value: undefined, done: true });
  const other = scripted();
  const stopped = other.fanfare[Symbol.asyncIterator]().next();
  await (await other.live()).end(4500, "displaced");
  await assert.rejects(stopped, { code: "stopped", message: "4500 displaced" });
});

test("topics are asked for after welcome, and again on every connection", async () => {
  const client = scripted({ topics: ["news"] });
  const followed = collect(client.fanfare, "subscribed");
  const seen = collect(client.fanfare, "notification");
  client.fanfare.subscribe("offers.eu", { since: 3 });
  const first = await client.live();
  assert.deepEqual(first.sent("subscribe"), [
    { type: "subscribe", id: 1, topic: "news" },
    { type: "subscribe", id: 2, topic: "offers.eu", since: 3 },
  ]);
  const start = { epoch: "k1", head: 7, from: 7, gap: false };
  await first.say({ type: "subscribed", id: 1, stream: "topic:news", ...start }, notification(8, "topic:news"));
  await client.clock.advance(40);
  assert.deepEqual(acks(first), ["topic:news 8"]);
  await first.end(1006);
  await client.clock.advance(500);
  const second = await client.live();
  assert.deepEqual(second.sent("subscribe").map(({ topic }) => topic), ["news", "offers.eu"]);
  await second.say({ type: "subscribed", id: 3, stream: "topic:news", ...start }, notification(8, "topic:news"));
  assert.deepEqual([followed.length, titles(seen)], [2, ["n8"]]);
});

test("a topic that is left is followed no more, and nothing of it is handed on", async () => {
  const client = scripted({ topics: ["news"] });
  const seen = collect(client.fanfare, "notification");
  const socket = await client.live();
  await socket.say({ type: "subscribed", id: 1, stream: "topic:news", epoch: "k1", head: 0, from: 0, gap: false });
  client.fanfare.unsubscribe("news");
  assert.deepEqual(socket.sent("unsubscribe"), [{ type: "unsubscribe", id: 2, topic: "news" }]);
  await socket.say(notification(1, "topic:news"), { type: "unsubscribed", id: 2, stream: "topic:news" });
  await client.clock.advance(40);
  assert.deepEqual([seen, acks(socket)], [[], []]);
});

test("a client without a device goes on in a topic where it was", async () => {
  const client = scripted({ topics: ["news"], device: null });
  collect(client.fanfare, "notification");
  const first = await client.live();
  assert.equal("device" in first.frames[0], false);
  const start = { stream: "topic:news", epoch: "k1", head: 7, from: 7, gap: false };
  await first.say({ type: "subscribed", id: 1, ...start }, notification(8, "topic:news"));
  await first.end(1006);
  await client.clock.advance(500);
  const second = await client.live();
  assert.deepEqual(second.sent("subscribe"), [{ type: "subscribe", id: 2, topic: "news", since: 8 }]);
});

test("a topic that is refused is told with its name and not asked for again", async () => {
  const client = scripted({ topics: ["secret"] });
  const errors = collect(client.fanfare, "error");
  const first = await client.live();
  await first.say({ type: "error", id: 1, code: "topic_forbidden", message: "no", retry: false });
  assert.deepEqual(errors.map(({ code, about }) => [code, about]), [["topic_forbidden", "secret"]]);
  await first.end(1006);
  await client.clock.advance(500);
  assert.deepEqual((await client.live()).sent("subscribe"), []);
});

test("a topic that cannot be followed now is asked for again a second later", async () => {
  const client = scripted({ topics: ["news"] });
  const errors = collect(client.fanfare, "error");
  const socket = await client.live();
  await socket.say({ type: "error", id: 1, code: "unavailable", message: "busy", retry: true });
  await client.clock.advance(1_000);
  assert.deepEqual(socket.sent("subscribe").map(({ id }) => id), [1, 2]);
  assert.deepEqual(errors, []);
});

test("a topic that a newer token does not allow any more ends with an error", async () => {
  const client = scripted({ topics: ["news"] });
  const errors = collect(client.fanfare, "error");
  const socket = await client.live();
  await socket.say({ type: "subscribed", id: 1, stream: "topic:news", epoch: "k1", head: 0, from: 0, gap: false });
  await socket.say({ type: "unsubscribed", stream: "topic:news" });
  assert.deepEqual(errors.map(({ code, about }) => [code, about]), [["topic_forbidden", "news"]]);
});

test("of two unread counts the one with the higher version is right", async () => {
  const client = scripted();
  const counts = [];
  client.fanfare.unread.subscribe((count) => counts.push(count));
  const reads = collect(client.fanfare, "read");
  const socket = await client.live({ unread: 3, version: 10 });
  await socket.say({ type: "read", stream: "user", ids: ["a"], unread: 2, version: 12 });
  await socket.say({ type: "read", stream: "user", ids: ["b"], unread: 3, version: 11 });
  assert.deepEqual(counts, [0, 3, 2]);
  assert.deepEqual(reads.map(({ ids }) => ids), [["a"], ["b"]]);
});

test("what arrives in the user's own stream has the unread counted once, within a second", async () => {
  const asked = [];
  const fetch = async (url, { headers }) => {
    asked.push([url, headers.Authorization]);
    return Response.json({ unread: 7, version: 3 });
  };
  const client = scripted({ fetch, token: () => "t" });
  collect(client.fanfare, "notification");
  const socket = await client.live({ heads: { user: 1 }, unread: 1, version: 1 });
  await socket.say(notification(2), notification(3), notification(1, "everyone"));
  await client.clock.advance(499);
  assert.deepEqual(asked, []);
  await client.clock.advance(1);
  assert.deepEqual(asked, [["https://push.example.com/v1/inbox/unread", "Bearer t"]]);
  assert.equal(client.fanfare.unread.value, 7);
});

test("what welcome has counted already is not counted again as it is caught up with", async () => {
  let asked = 0;
  const client = scripted({ fetch: async () => Response.json({ unread: ++asked, version: 9 }) });
  collect(client.fanfare, "notification");
  const socket = await client.live({ heads: { user: 2 }, from: {}, unread: 2, version: 2 });
  await socket.say(notification(1), notification(2), { type: "caught_up", stream: "user", through: 2 });
  await client.clock.advance(2_000);
  assert.deepEqual([asked, client.fanfare.unread.value], [0, 2]);
});

test("a stored cursor is where a client without a device goes on after it was loaded again", async () => {
  const kept = new Map();
  const storage = { getItem: async (key) => kept.get(key) ?? null, setItem: async (key, value) => void kept.set(key, value) };
  const first = scripted({ device: null, storage, cursor: true });
  collect(first.fanfare, "notification");
  const socket = await first.live();
  await socket.say(notification(1), notification(2), notification(3));
  await first.clock.advance(40);
  first.fanfare.close();
  await settle();
  const second = scripted({ device: null, storage, cursor: true });
  assert.deepEqual((await second.open()).frames[0].resume.user, { epoch: "k1", seq: 3 });
  assert.ok(![...kept.values()].join().includes(".x"), "no token is stored");
});

test("a device's name is made once and kept in the storage that was given", async () => {
  const kept = new Map();
  const storage = { getItem: (key) => kept.get(key) ?? null, setItem: (key, value) => void kept.set(key, value) };
  const names = [];
  for (let start = 0; start < 2; start++) {
    const client = scripted({ device: undefined, storage });
    names.push((await client.open()).frames[0].device);
    client.fanfare.close();
  }
  assert.match(names[0], /^[A-Za-z0-9._~@|:-]{8,128}$/);
  assert.equal(names[0], names[1]);
});

test("a storage that fails is as good as none", async () => {
  const refuse = () => {
    throw new Error("full");
  };
  const client = scripted({ device: undefined, storage: { getItem: refuse, setItem: refuse }, cursor: true });
  const socket = await client.live();
  assert.equal("device" in socket.frames[0], false);
});
