// One attempt at a connection, as frames: the seam where another way than WebSocket can be put in.
// Owns the socket; never comes back by itself and knows nothing of what frames mean.

import type { ClientFrame, ServerFrame } from "./protocol.js";
import type { SocketClass } from "./surroundings.js";

/** What a transport tells: frames in their order, then the end, once. Nothing comes after `closed`. */
export interface Listener {
  frame(frame: ServerFrame): void;
  closed(code: number, reason: string): void;
}

/** An open attempt. `send` may throw where it has ended; after `close` nothing is told any more. */
export interface Link {
  send(frame: ClientFrame): void;
  close(): void;
}

/** Opens with `hello` as the first frame. May throw instead of telling `closed`. */
export type Transport = (hello: ClientFrame, to: Listener) => Link;

export function webSocket(url: string, Socket: SocketClass): Transport {
  return (hello, to) => {
    const socket = new Socket(`${url.replace(/^http/, "ws")}/v1/connect`, ["fanfare.v1"]);
    const send = (frame: ClientFrame) => socket.send(JSON.stringify(frame));
    socket.onopen = () => send(hello);
    socket.onmessage = ({ data }) => {
      let frame;
      try {
        frame = JSON.parse(data);
      } catch {
        return to.closed(1002, "not JSON");
      }
      to.frame(frame);
    };
    socket.onclose = ({ code, reason }) => to.closed(code, reason);
    // An end follows. Not left out: the package `ws` throws errors that nobody listens to.
    socket.onerror = () => {};
    const close = () => {
      socket.onopen = socket.onmessage = socket.onclose = null;
      socket.close(1000);
    };
    return { send, close };
  };
}
