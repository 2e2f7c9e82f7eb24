// The client in Node against a real node: what arrives, and what happens when the node goes away, stands still or
// moves, or when tokens run out.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import { test } from "node:test";
import { fileURLToPath } from "node:url";

import { Server, client, freePort } from "./support/server.mjs";
import { becomes, gather, reaches, until, within } from "./support/waiting.mjs";

const server = await Server.start();

test("a notification arrives as it was published", async (context) => {
  const fanfare = client(context, server, "ann");
  const seen = gather(fanfare);
  await reaches(fanfare, "live");
  const data = { order: 42, deep: [{ "ü": "\u{1f389}" }] };
  const id = await server.publish("ann", { type: "order.shipped", title: "On its way", body: "Parcel 42", data });
  const [one] = await seen.count(1);
  const { id: found, type, title, body, data: carried, stream, seq, read } = one;
  assert.deepEqual({ found, type, title, body, carried, stream, seq, read }, {
    found: id, type: "order.shipped", title: "On its way", body: "Parcel 42", carried: data, stream: "user", seq: 1, read: false,
  });
});

test("what was not handled comes again to the same device, what was does not", async (context) => {
  const first = client(context, server, "ben");
  const stuck = new Promise((resolve) => {
    first.on("notification", ({ title }) => title === "two" && new Promise(() => resolve()));
  });
  await reaches(first, "live");
  const one = await server.publish("ben", { title: "one" });
  await server.publish("ben", { title: "two" });
  await within(stuck, "two is being handled");
  await server.delivered(one);
  first.close();
  const second = client(context, server, "ben");
  const seen = gather(second);
  await until(() => seen.titles().includes("two"), "two comes again");
  await server.publish("ben", { title: "three" });
  await until(() => seen.titles().includes("three"), "and three after it");
  // The node may not have noted yet what the client before this one has acknowledged.
  assert.deepEqual(seen.titles().filter((title) => title !== "one"), ["two", "three"]);
});

test("topics and everyone arrive beside the user's own, each in its order", async (context) => {
  const fanfare = client(context, server, "cem", { topics: ["news"] });
  const seen = gather(fanfare);
  const followed = gather(fanfare, "subscribed");
  await followed.count(1);
  fanfare.subscribe("offers.eu");
  await followed.count(2);
  await server.publish("", { to: { topic: "news" }, title: "n1" });
  await server.publish("", { to: { topic: "offers.eu" }, title: "o1" });
  await server.publish("", { to: { everyone: true }, title: "e1" });
  await server.publish("", { to: { topic: "news" }, title: "n2" });
  await seen.count(4);
  assert.deepEqual(seen.events.filter(({ stream }) => stream === "topic:news").map(({ title }) => title), ["n1", "n2"]);
  fanfare.unsubscribe("news");
  await until(async () => (await server.connections("cem"))[0]?.streams.length === 3, "news is followed no more");
});

test("a topic that the token does not allow is refused by name, and the others are followed", async (context) => {
  const token = () => server.token("dan", { topics: ["news"] });
  const fanfare = client(context, server, "dan", { token, topics: ["secret", "news"] });
  const errors = gather(fanfare, "error");
  await gather(fanfare, "subscribed").count(1);
  const [error] = await errors.count(1);
  assert.deepEqual([error.code, error.about, error.retry], ["topic_forbidden", "secret", false]);
  assert.equal(fanfare.state.value.name, "live");
});

test("a cancelled notification is taken back", async (context) => {
  const fanfare = client(context, server, "eva");
  const seen = gather(fanfare);
  const cancelled = gather(fanfare, "cancelled");
  await reaches(fanfare, "live");
  const id = await server.publish("eva", { title: "wrong" });
  await seen.count(1);
  await server.cancel(id);
  assert.equal((await cancelled.count(1))[0].id, id);
  await until(async () => (await server.connections("eva"))[0]?.streams[0].unacked === 0, "both are acknowledged");
});

test("now or never arrives without a place", async (context) => {
  const fanfare = client(context, server, "fay");
  const seen = gather(fanfare);
  await reaches(fanfare, "live");
  await server.publish("fay", { title: "now", ttl: 0 });
  assert.equal((await seen.count(1))[0].seq, undefined);
});

test("the unread count follows what arrives and what is read, here and on another device", async (context) => {
  const phone = client(context, server, "gil", { device: "phone" });
  const web = client(context, server, "gil", { device: "web" });
  const seen = gather(web);
  const reads = gather(phone, "read");
  for (const one of [phone, web]) {
    one.on("notification", () => {});
    await reaches(one, "live");
  }
  const ids = [];
  for (const title of ["a", "b", "c"]) ids.push(await server.publish("gil", { title }));
  await becomes(web.unread, (count) => count === 3);
  await seen.count(3);
  await web.markRead(seen.events[0], ids[1]);
  assert.equal(web.unread.value, 1);
  await becomes(phone.unread, (count) => count === 1);
  assert.deepEqual((await reads.count(1)).flatMap((read) => read.ids).sort(), ids.slice(0, 2).sort());
  await phone.markReadUpTo(seen.events[2].seq);
  await becomes(web.unread, (count) => count === 0);
});

test("the inbox is read page by page, newest first", async (context) => {
  const fanfare = client(context, server, "hal");
  for (let n = 1; n <= 5; n++) await server.publish("hal", { title: `n${n}` });
  const pages = [];
  for (let page = await fanfare.inbox({ limit: 2 }); page; page = page.next && (await page.next())) {
    pages.push(page.entries.map(({ title }) => title));
  }
  assert.deepEqual(pages, [["n5", "n4"], ["n3", "n2"], ["n1"]]);
  const [newest] = (await fanfare.inbox({ limit: 1 })).entries;
  await fanfare.markRead(newest);
  const { entries, unread } = await fanfare.inbox({ unread: true });
  assert.deepEqual([entries.length, unread], [4, 4]);
  assert.equal((await fanfare.inbox({ limit: 1 })).entries[0].read, true);
});

test("what the server refuses over HTTP is an error with its code", async (context) => {
  const fanfare = client(context, server, "ivy", { token: () => server.token("ivy", { topics: [] }) });
  await assert.rejects(fanfare.inbox({ stream: "topic:news" }), { name: "FanfareError", code: "topic_forbidden", retry: false });
  await assert.rejects(fanfare.inbox({ limit: 1_000 }), { code: "invalid_request" });
});

test("a token that ran out is replaced for a request, too", async (context) => {
  const tokens = [server.token("jon", { seconds: -10 }), server.token("jon")];
  const fanfare = client(context, server, "jon", { token: () => tokens.shift() ?? server.token("jon") });
  fanfare.on("error", () => {});
  assert.deepEqual((await fanfare.inbox()).entries, []);
});

test("a loop over the client gets one after the other", async (context) => {
  const fanfare = client(context, server, "kai");
  for (let n = 1; n <= 3; n++) await server.publish("kai", { title: `n${n}` });
  const titles = [];
  for await (const { title } of fanfare) {
    titles.push(title);
    if (titles.length === 3) fanfare.close();
  }
  assert.deepEqual(titles, ["n1", "n2", "n3"]);
});

test("of two clients with one device's name the newer stays, and the older stops", async (context) => {
  const older = client(context, server, "lou");
  await reaches(older, "live");
  const newer = client(context, server, "lou");
  await reaches(newer, "live");
  const { code, reason } = await reaches(older, "stopped");
  assert.deepEqual([code, reason, newer.state.value.name], [4500, "displaced", "live"]);
});

test("a backlog larger than the window arrives whole and in order", async (context) => {
  const many = Array.from({ length: 700 }, (_, n) => `n${n}`);
  for (let at = 0; at < many.length; at += 50) {
    await Promise.all(many.slice(at, at + 50).map((title) => server.publish("mia", { title })));
  }
  const seen = gather(client(context, server, "mia"));
  await seen.count(700);
  const seqs = seen.events.map(({ seq }) => seq);
  assert.deepEqual(seqs, Array.from({ length: 700 }, (_, n) => n + 1));
});

test("a token is refreshed on the open connection, long before it runs out", async (context) => {
  let asked = 0;
  const token = () => (asked++, server.token("ned", { seconds: 5 }));
  const fanfare = client(context, server, "ned", { token });
  const seen = gather(fanfare);
  const { connection } = await reaches(fanfare, "live");
  await until(() => asked === 3, "the token was refreshed twice");
  await server.publish("ned", { title: "still here" });
  await seen.count(1);
  assert.equal(fanfare.state.value.connection, connection, "the connection is the first one");
});

test("a token that ran out because nobody gave a new one costs nothing but a reconnect", async (context) => {
  let asked = 0;
  const token = () => {
    asked++;
    if (asked === 2) throw new Error("the backend is away");
    return server.token("oda", { seconds: asked === 1 ? 2 : 3_600 });
  };
  const fanfare = client(context, server, "oda", { token });
  const seen = gather(fanfare);
  await reaches(fanfare, "live");
  const { code } = await becomes(fanfare.state, ({ name }) => name === "waiting");
  assert.equal(code, 4001);
  await server.publish("oda", { title: "meanwhile" });
  await seen.count(1);
});

test("a refused token stops the client, and says why", async (context) => {
  const fanfare = client(context, server, "pia", { token: () => `${server.token("pia")}x` });
  fanfare.on("error", () => {});
  assert.equal((await reaches(fanfare, "stopped")).code, 4501);
});

test("a node that is killed and started again loses and doubles nothing", async (context) => {
  const own = await Server.start();
  const fanfare = client(context, own, "ann");
  const seen = gather(fanfare);
  await reaches(fanfare, "live");
  for (const title of ["a", "b"]) await own.publish("ann", { title });
  await seen.count(2);
  await own.kill();
  assert.equal((await becomes(fanfare.state, ({ name }) => name === "waiting")).code, 1006);
  await own.restart();
  await own.publish("ann", { title: "c" });
  await seen.count(3);
  assert.deepEqual(seen.titles(), ["a", "b", "c"]);
});

test("a node that stands still is noticed by its missing pings, and what came meanwhile arrives once", async (context) => {
  const own = await Server.start();
  const fanfare = client(context, own, "ann");
  const seen = gather(fanfare);
  await reaches(fanfare, "live");
  await own.publish("ann", { title: "before" });
  await seen.count(1);
  own.freeze();
  const { reason } = await becomes(fanfare.state, ({ name }) => name === "waiting");
  assert.equal(reason, "silence");
  own.thaw();
  await own.publish("ann", { title: "after" });
  await seen.count(2);
  await reaches(fanfare, "live");
  assert.deepEqual(seen.titles(), ["before", "after"]);
});

test("a node that is stopped sends its clients away with a time, and they come back where it is started again", async (context) => {
  const own = await Server.start();
  const WebSocket = (await import("ws")).default;
  // As behind a proxy, the address stays while the node behind it is another one.
  class Proxied extends WebSocket {
    constructor(_, protocols) {
      super(`ws://127.0.0.1:${own.port}/v1/connect`, protocols);
    }
  }
  const fanfare = client(context, own, "ann", { WebSocket: Proxied });
  const seen = gather(fanfare);
  await reaches(fanfare, "live");
  await own.publish("ann", { title: "there" });
  await seen.count(1);
  const away = becomes(fanfare.state, ({ name }) => name === "waiting");
  await own.stop();
  assert.equal((await away).code, 4000);
  await own.restart(await freePort());
  await own.publish("ann", { title: "here" });
  await seen.count(2);
  assert.deepEqual(seen.titles(), ["there", "here"]);
});

test("what is handled when the client is closed is acknowledged before it goes", async (context) => {
  const fanfare = client(context, server, "quy");
  const handled = new Promise((resolve) => fanfare.on("notification", () => setImmediate(resolve)));
  await reaches(fanfare, "live");
  const id = await server.publish("quy", { title: "only once" });
  await within(handled, "it is handled");
  fanfare.close();
  // A receipt tells of acknowledgements alone.
  await server.delivered(id);
});

test("the example prints what arrives, and ends when it is interrupted", async (context) => {
  const example = fileURLToPath(new URL("../examples/watch.mjs", import.meta.url));
  const env = { PATH: process.env.PATH, FANFARE_URL: server.url, FANFARE_TOKEN: server.token("ray") };
  const child = spawn(process.execPath, [example, "news"], { env, stdio: ["ignore", "pipe", "ignore"] });
  context.after(() => child.kill("SIGKILL"));
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  await until(async () => (await server.connections("ray"))[0]?.streams.length === 3, "it follows its topic");
  await server.publish("ray", { title: "Hello", body: "world" });
  assert.equal((await within(lines.next(), "a line")).value, "user: Hello world");
  await server.publish("", { to: { topic: "news" }, title: "News" });
  assert.equal((await within(lines.next(), "another line")).value, "topic:news: News");
  child.kill("SIGINT");
  assert.deepEqual(await within(once(child, "exit"), "its end"), [0, null]);
});
