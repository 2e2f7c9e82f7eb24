// Prints the notifications of a user: with Node, after `npm install @fanfare/client ws`.
//
//   FANFARE_URL=http://127.0.0.1:8080 FANFARE_TOKEN=$(fanfare token user --user alice --topics '#') node watch.mjs news

import { Fanfare } from "@fanfare/client";
import WebSocket from "ws";

const fanfare = new Fanfare({
  url: process.env.FANFARE_URL ?? "http://127.0.0.1:8080",
  token: () => process.env.FANFARE_TOKEN,
  device: "watch",
  topics: process.argv.slice(2),
  WebSocket,
});

fanfare.state.subscribe((state) => console.error(state.name, state.reason ?? ""));
fanfare.on("error", (error) => console.error(error.code, error.message));
process.once("SIGINT", () => fanfare.close());

// One is acknowledged when the next is asked for: what is not printed comes again the next time.
for await (const { stream, title, body } of fanfare) console.log(`${stream}: ${title ?? ""} ${body ?? ""}`.trim());
