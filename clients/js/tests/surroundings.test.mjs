// The client where globals are missing: in a context that has the language and nothing else, and then as React Native,
// a sandboxed frame and old browsers are.

import assert from "node:assert/strict";
import { test } from "node:test";
import { createContext, runInContext } from "node:vm";
import { fileURLToPath } from "node:url";

import { build } from "esbuild";

import { notification, settle, socketClass, token, welcome } from "./support/scripted.mjs";

const entry = fileURLToPath(new URL("../dist/index.js", import.meta.url));
const made = await build({ entryPoints: [entry], bundle: true, write: false, format: "iife", globalName: "client" });

/** The client's exports, loaded where `globals` and timers are all that there is beside the language. */
function loaded(globals = {}) {
  const said = [];
  const console = { warn: (...all) => said.push(all) };
  const context = createContext({ setTimeout, clearTimeout, console, ...globals });
  return { ...runInContext(`${made.outputFiles[0].text}; client`, context), said };
}

async function receives(options, globals, seq = 1) {
  const sockets = [];
  const { Fanfare, said } = loaded(globals);
  const fanfare = new Fanfare({ url: "https://x", token: () => token({ exp: 4_000_000_000 }), WebSocket: socketClass(sockets), ...options });
  const seen = [];
  fanfare.on("notification", ({ title }) => void seen.push(title));
  await settle();
  sockets[0].onopen();
  await sockets[0].say(welcome(), notification(seq));
  fanfare.close();
  assert.deepEqual([seen, said], [[`n${seq}`], []]);
  return sockets[0].frames[0];
}

test("the context of these tests has none of the globals that could be leaned on", () => {
  const names = ["window", "self", "document", "navigator", "process", "Buffer", "fetch", "WebSocket", "URL", "atob", "crypto"];
  const more = ["localStorage", "BroadcastChannel", "AbortController", "queueMicrotask", "structuredClone", "addEventListener"];
  const there = runInContext("globalThis", createContext({}));
  for (const name of [...names, ...more]) assert.equal(there[name], undefined, name);
});

test("with the language and timers alone it receives through the WebSocket class that it is given", async () => {
  const hello = await receives({});
  assert.equal("device" in hello, false);
});

test("as in React Native it takes a window without a document, and a storage that answers later", async () => {
  const kept = new Map();
  const storage = { getItem: async (key) => kept.get(key) ?? null, setItem: async (key, value) => void kept.set(key, value) };
  const globals = { navigator: { product: "ReactNative" }, atob };
  globals.window = globals;
  const first = await receives({ storage, cursor: true }, globals);
  const second = await receives({ storage, cursor: true }, globals, 2);
  assert.equal(first.device, second.device);
  assert.deepEqual({ ...second.resume.user }, { epoch: "k1", seq: 1 });
});

test("in a frame that may not use the site's storage it goes without a name", async () => {
  const document = { addEventListener() {}, removeEventListener() {} };
  const context = createContext({ setTimeout, clearTimeout, console, document, navigator: {} });
  const get = () => {
    throw new Error("SecurityError");
  };
  Object.defineProperty(context, "localStorage", { get });
  const { Fanfare } = runInContext(`${made.outputFiles[0].text}; client`, context);
  const sockets = [];
  const fanfare = new Fanfare({ url: "https://x", token, WebSocket: socketClass(sockets) });
  await settle();
  sockets[0].onopen();
  assert.equal("device" in sockets[0].frames[0], false);
  fanfare.close();
});

test("a browser without Web Locks has a socket for each tab, and no name that tabs would quarrel about", async () => {
  const document = { addEventListener() {}, removeEventListener() {} };
  const localStorage = { getItem: () => null, setItem() {} };
  const hello = await receives({}, { document, localStorage, navigator: {}, BroadcastChannel: class {} });
  assert.equal("device" in hello, false);
});

test("without a WebSocket class it says what to do", () => {
  const { Fanfare } = loaded();
  assert.throws(() => new Fanfare({ url: "https://x", token }), /no global WebSocket.*option WebSocket/);
});

test("without fetch it receives, and what needs HTTP says so", async () => {
  const sockets = [];
  const { Fanfare } = loaded();
  const fanfare = new Fanfare({ url: "https://x", token, WebSocket: socketClass(sockets) });
  await assert.rejects(fanfare.inbox(), { code: "unreachable", message: /fetch/ });
  fanfare.close();
});
