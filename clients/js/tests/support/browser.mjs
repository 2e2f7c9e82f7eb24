// Headless Chromium and a site of its own: pages that run the client as a browser loads it. The site is another
// origin than the node's, as it is for most applications.

import { mkdtempSync, rmSync } from "node:fs";
import { createServer, request as ask } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

import { build } from "esbuild";
import { chromium } from "playwright-core";

const FLAGS = [
  "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
  "--disable-background-networking", "--disable-component-update", "--disable-sync",
];

const PAGE = `<!doctype html><html lang="en"><meta charset="utf-8"><title>A page</title>
  <meta name="viewport" content="width=device-width, initial-scale=1"><div id="app"></div><script type="module" src="/page.js"></script>`;

/** Serves the page with its script at `/`. */
export async function site() {
  const entry = fileURLToPath(new URL("../pages/page.jsx", import.meta.url));
  const made = await build({ entryPoints: [entry], bundle: true, format: "esm", write: false, jsx: "automatic" });
  const script = made.outputFiles[0].text;
  const server = createServer((request, response) => {
    if (request.url === "/page.js") return response.setHeader("Content-Type", "text/javascript").end(script);
    response.setHeader("Content-Type", "text/html").end(PAGE);
  });
  await new Promise((ready) => server.listen(0, "127.0.0.1", ready));
  server.unref();
  return { origin: `http://127.0.0.1:${server.address().port}`, close: () => server.close() };
}

/** A browser with an empty profile: one context, whose pages are tabs of it. */
export async function browser(options = {}) {
  const profile = mkdtempSync(join(tmpdir(), "fanfare-chromium-"));
  const context = await chromium.launchPersistentContext(profile, {
    executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
    args: FLAGS,
    ...options,
  });
  const close = async () => {
    await context.close();
    rmSync(profile, { recursive: true, force: true });
  };
  return { context, close };
}

/** A proxy as some companies have it: HTTP passes, and whoever wants to upgrade is cut off. Returns its address. */
export async function withoutUpgrades(url) {
  const proxy = createServer((request, response) => {
    const { method, headers } = request;
    const onward = ask(url + request.url, { method, headers }, (answer) => {
      response.writeHead(answer.statusCode, answer.headers);
      answer.pipe(response);
    });
    request.pipe(onward);
  });
  proxy.on("upgrade", (_, socket) => socket.destroy());
  await new Promise((ready) => proxy.listen(0, "127.0.0.1", ready));
  proxy.unref();
  return `http://127.0.0.1:${proxy.address().port}`;
}
