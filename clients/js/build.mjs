// Builds dist/: for each entry point one minified module with its source map, beside the types that tsc has written.
// Says how large the main one is when compressed, and fails if that is over its limit.

import { readFileSync, writeFileSync } from "node:fs";
import { basename } from "node:path";
import { gzipSync } from "node:zlib";

import { build } from "esbuild";
import { minify } from "terser";

const LIMIT_BYTES = 6_000;

// Names between our own modules, which nobody outside sees: no option, event, frame or global has one of these names,
// and the React entry point uses the public surface only. They are shortened; all tests run on the result.
const INTERNAL = [
  "session", "emitter", "deliveries", "transport", "tokens", "onCount", "onMoved", "onState", "onFrame", "onLead",
  "onLost", "onMessage", "handled", "settled", "follow", "forget", "standings", "adopt", "position", "acked", "take",
  "want", "wanted", "elsewhere", "allTopics", "leftMs", "renew", "skewMs", "acknowledge", "flush", "leads", "marks",
  "again", "lockManager", "of", "fail", "lead", "joins", "frame", "kind", "event", "left", "keep", "count",
];

const { outputFiles } = await build({
  entryPoints: ["src/index.ts", "src/react.ts"],
  outdir: "dist",
  bundle: true,
  minify: true,
  sourcemap: "inline",
  format: "esm",
  target: "es2022",
  external: ["react"],
  mangleProps: new RegExp(`^(${INTERNAL.join("|")})$`),
  write: false,
});
for (const { path, text } of outputFiles) {
  const name = basename(path);
  // What one of the two minifiers leaves the other one still finds.
  const options = { module: true, ecma: 2020, compress: { passes: 3 } };
  const { code, map } = await minify({ [name]: text }, { ...options, sourceMap: { content: "inline", url: `${name}.map` } });
  writeFileSync(path, code);
  writeFileSync(`${path}.map`, map);
}

const bytes = gzipSync(readFileSync("dist/index.js"), { level: 9 }).length;
console.log(`dist/index.js: ${bytes} bytes gzipped, at most ${LIMIT_BYTES}`);
if (bytes > LIMIT_BYTES) process.exit(1);
