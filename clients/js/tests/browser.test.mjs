// The client in headless Chromium against a real node: pages, tabs that share a socket, the React hook.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { browser, site, withoutUpgrades } from "./support/browser.mjs";
import { Server } from "./support/server.mjs";
import { until, within } from "./support/waiting.mjs";

const pages = await site();
const server = await Server.start({ origins: [pages.origin] });
let desktop;

before(async () => {
  desktop = await browser();
});
after(async () => {
  await desktop.close();
  pages.close();
});

/** A new tab with a client of `user`. */
async function tab(user, { context = desktop.context, init, ...options } = {}) {
  const page = await context.newPage();
  if (init) await page.addInitScript(init);
  page.on("pageerror", (error) => console.error(error));
  await page.goto(pages.origin);
  await page.evaluate(([given, token]) => window.start(given, token), [{ url: server.url, ...options }, server.token(user)]);
  return page;
}

const holds = (page, wanted, value, what = String(wanted)) => within(page.waitForFunction(wanted, value, { timeout: 0 }), what);
const live = (page) => holds(page, () => fanfare.state.value.name === "live");
const arrived = (page, count) => holds(page, (wanted) => seen.notification.length >= wanted, count);
const titles = (page) => page.evaluate(() => seen.notification.map(({ title }) => title));
const sockets = (page) => page.evaluate(() => window.sockets);
const closeAll = (...all) => Promise.all(all.map((page) => page.close()));

test("a page of another site receives, reads its inbox and marks as read", async () => {
  const page = await tab("ann");
  await live(page);
  await server.publish("ann", { title: "hello" });
  await arrived(page, 1);
  await holds(page, () => fanfare.unread.value === 1);
  await page.evaluate(() => fanfare.markRead(seen.notification[0]));
  assert.equal(await page.evaluate(() => fanfare.unread.value), 0);
  assert.equal(await page.evaluate(async () => (await fanfare.inbox()).entries[0].read), true);
  await page.close();
});

test("a page that is loaded again is the same device and gets what came meanwhile, once", async () => {
  const page = await tab("ben");
  await live(page);
  await server.publish("ben", { title: "one" }).then((id) => server.delivered(id));
  const [{ device }] = await server.connections("ben");
  await page.goto("about:blank");
  await until(async () => !(await server.connections("ben")).length, "the page has gone");
  await server.publish("ben", { title: "two" });
  const again = await tab("ben");
  await holds(again, () => seen.notification.some(({ title }) => title === "two"));
  assert.equal((await server.connections("ben"))[0].device, device);
  await closeAll(page, again);
});

test("two tabs share one socket, and each gets everything once", async () => {
  const first = await tab("cem");
  await live(first);
  const second = await tab("cem");
  await live(second);
  await server.publish("cem", { title: "one" });
  for (const page of [first, second]) await arrived(page, 1);
  await server.publish("cem", { title: "two" }).then((id) => server.delivered(id));
  for (const page of [first, second]) {
    await arrived(page, 2);
    assert.deepEqual(await titles(page), ["one", "two"]);
    await holds(page, () => fanfare.unread.value === 2);
  }
  assert.equal((await server.connections("cem")).length, 1);
  assert.deepEqual([await sockets(first), await sockets(second)], [1, 0]);
  await closeAll(first, second);
});

test("when the tab with the socket is closed another one takes over without a loss or a double", async () => {
  const first = await tab("dan");
  await live(first);
  const second = await tab("dan");
  await live(second);
  await server.publish("dan", { title: "before" });
  await arrived(second, 1);
  await first.close();
  await server.publish("dan", { title: "meanwhile" });
  await arrived(second, 2);
  await server.publish("dan", { title: "after" });
  await arrived(second, 3);
  assert.deepEqual(await titles(second), ["before", "meanwhile", "after"]);
  assert.equal(await sockets(second), 1);
  await second.close();
});

test("what only the closed tab had and did not handle goes to the one that takes over", async () => {
  const first = await tab("eva", { silent: true });
  await live(first);
  // Nobody handles it: there is no handler in the first tab, and no second tab yet.
  await server.publish("eva", { title: "waits" });
  await until(async () => (await server.connections("eva"))[0]?.streams[0].unacked === 1, "it was sent");
  const second = await tab("eva");
  await live(second);
  await first.close();
  await arrived(second, 1);
  assert.deepEqual(await titles(second), ["waits"]);
  await second.close();
});

test("each tab gets the topics that it asked for, and what no tab wants any more is left", async () => {
  const first = await tab("fay", { topics: ["news"] });
  const second = await tab("fay", { topics: ["offers"] });
  for (const page of [first, second]) {
    await live(page);
    await holds(page, () => seen.subscribed.length === 1);
  }
  await server.publish("", { to: { topic: "news" }, title: "n" });
  await server.publish("", { to: { topic: "offers" }, title: "o" }).then((id) => server.delivered(id));
  await arrived(first, 1);
  await arrived(second, 1);
  assert.deepEqual([await titles(first), await titles(second)], [["n"], ["o"]]);
  await second.close();
  await until(async () => (await server.connections("fay"))[0]?.streams.length === 3, "offers is followed no more");
  await first.close();
});

test("a tab whose locks come late is not taken for one that has gone", async () => {
  const first = await tab("fee");
  await live(first);
  const late = () => {
    const { request } = LockManager.prototype;
    LockManager.prototype.request = async function (...given) {
      await new Promise((resolve) => setTimeout(resolve, 500));
      return request.apply(this, given);
    };
  };
  const second = await tab("fee", { topics: ["offers"], init: late });
  await holds(second, () => seen.subscribed.length === 1);
  await server.publish("", { to: { topic: "offers" }, title: "o" });
  await arrived(second, 1);
  await closeAll(first, second);
});

test("what the closed tab did not handle of its topic goes to the tab that asks for the topic next", async () => {
  const first = await tab("fin", { topics: ["news"], silent: true });
  await holds(first, () => seen.subscribed.length === 1);
  const second = await tab("fin");
  await live(second);
  await server.publish("", { to: { topic: "news" }, title: "waits" });
  const unacked = async () => (await server.connections("fin"))[0]?.streams.some((stream) => stream.unacked === 1);
  await until(unacked, "it was sent");
  await first.close();
  await holds(second, () => window.sockets === 1 && fanfare.state.value.name === "live");
  await second.evaluate(() => fanfare.subscribe("news"));
  await arrived(second, 1);
  assert.deepEqual(await titles(second), ["waits"]);
  await second.close();
});

test("a tab that asks for a topic of another tab is told that it is followed", async () => {
  const first = await tab("flo", { topics: ["news"] });
  await holds(first, () => seen.subscribed.length === 1);
  const second = await tab("flo");
  await live(second);
  await second.evaluate(() => fanfare.subscribe("news"));
  await holds(second, () => seen.subscribed.length === 1);
  await server.publish("", { to: { topic: "news" }, title: "n" });
  await arrived(second, 1);
  await closeAll(first, second);
});

test("tabs of different users have their own sockets", async () => {
  const first = await tab("gil");
  const second = await tab("hal");
  for (const page of [first, second]) await live(page);
  await server.publish("gil", { title: "for gil" });
  await arrived(first, 1);
  assert.deepEqual([await sockets(first), await sockets(second)], [1, 1]);
  assert.deepEqual(await titles(second), []);
  await closeAll(first, second);
});

test("a tab with the socket that sleeps is replaced when another one is looked at", async () => {
  const first = await tab("ivy");
  await live(first);
  const second = await tab("ivy");
  await live(second);
  // Asleep, it answers nobody and keeps its lock.
  const asleep = first.evaluate(() => {
    for (const until = Date.now() + 8_000; Date.now() < until; );
  });
  await second.evaluate(() => window.dispatchEvent(new Event("focus")));
  await holds(second, () => window.sockets === 1 && fanfare.state.value.name === "live");
  await server.publish("ivy", { title: "here" });
  await arrived(second, 1);
  await asleep;
  await arrived(first, 1);
  await server.publish("ivy", { title: "both" });
  for (const page of [first, second]) {
    await arrived(page, 2);
    assert.deepEqual(await titles(page), ["here", "both"]);
  }
  assert.equal((await server.connections("ivy")).length, 1);
  await closeAll(first, second);
});

test("where WebSocket is blocked the page goes on trying, and the inbox is there all the same", async () => {
  const page = await tab("jon", { url: await withoutUpgrades(server.url) });
  await server.publish("jon", { title: "by http" });
  await holds(page, () => seen.states.filter((name) => name === "waiting").length >= 2);
  assert.deepEqual(await page.evaluate(async () => (await fanfare.inbox()).entries.map(({ title }) => title)), ["by http"]);
  assert.deepEqual(await titles(page), []);
  await page.close();
});

test("without a network the page notices, and it is back as soon as the network is", async () => {
  const page = await tab("kai", { tabs: false, device: "web" });
  await live(page);
  server.freeze();
  await holds(page, () => fanfare.state.value.name !== "live");
  server.thaw();
  await server.publish("kai", { title: "meanwhile" });
  await page.evaluate(() => window.dispatchEvent(new Event("online")));
  await arrived(page, 1);
  assert.deepEqual(await titles(page), ["meanwhile"]);
  await page.close();
});

test("the React list shows what there was, what arrives, what is read and what is taken back", async () => {
  for (const title of ["one", "two", "three"]) await server.publish("lou", { title });
  const page = await tab("lou", { silent: true });
  await page.evaluate(() => window.show());
  const items = (...wanted) => {
    const read = (list) => JSON.stringify([...document.querySelectorAll("li")].map((li) => `${li.innerText} ${li.className}`)) === list;
    return holds(page, read, JSON.stringify(wanted), `the list ${wanted}`);
  };
  await holds(page, () => document.querySelector("h1").innerText === "3 unread");
  await page.waitForSelector("li:nth-child(2)");
  const id = await server.publish("lou", { title: "four" }).then(async (id) => (await server.delivered(id), id));
  await items("four new", "three new", "two new", "one new");
  await page.getByRole("button", { name: "three" }).click();
  await items("four new", "three read", "two new", "one new");
  await holds(page, () => document.querySelector("h1").innerText === "3 unread");
  await server.cancel(id);
  await items("three read", "two new", "one new");
  await server.publish("lou", { title: "50 %", collapse_key: "up" });
  await server.publish("lou", { title: "90 %", collapse_key: "up" });
  await items("90 % new", "three read", "two new", "one new");
  await page.evaluate(() => window.hide());
  await page.close();
});

test("the React list fetches older pages when asked", async () => {
  const ids = [];
  for (const title of ["1", "2", "3", "4", "5"]) ids.push(await server.publish("mia", { title }));
  // Acknowledged by another device, they are in the inbox and are not delivered to this one any more.
  const other = await tab("mia", { device: "other", tabs: false });
  await server.delivered(ids.at(-1));
  await until(async () => (await server.connections("mia"))[0]?.streams[0].unacked === 0, "all are acknowledged");
  await other.close();
  const page = await tab("mia", { silent: true });
  await live(page);
  await page.evaluate(() => window.show());
  const listed = (wanted) => holds(page, (all) => [...document.querySelectorAll("li")].map((li) => li.innerText).join("") === all, wanted);
  for (const wanted of ["54", "5432"]) {
    await listed(wanted);
    await page.click("#more");
  }
  await listed("54321");
  assert.equal(await page.locator("#more").count(), 0);
  await page.close();
});

test("on a phone-sized page with touch it works alike, and fits", async (context) => {
  const phone = await browser({ viewport: { width: 390, height: 844 }, isMobile: true, hasTouch: true, deviceScaleFactor: 3 });
  context.after(() => phone.close());
  await server.publish("ned", { title: "a rather long title that a phone has to wrap somewhere in the middle" });
  const page = await tab("ned", { context: phone.context });
  await page.evaluate(() => window.show());
  await page.getByRole("button", { name: /rather long/ }).tap();
  await page.waitForSelector("li.read");
  await holds(page, () => document.querySelector("h1").innerText === "0 unread");
  assert.ok(await page.evaluate(() => document.documentElement.scrollWidth <= window.innerWidth));
});
