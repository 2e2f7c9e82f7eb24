// The entry point `@fanfare/client`: what applications may name.

export { Fanfare } from "./fanfare.js";
export type { Events, Options } from "./fanfare.js";
export { FanfareError } from "./events.js";
export type { Observable } from "./events.js";
export type { State } from "./connection.js";
export type { Notification, Page, Query } from "./http.js";
export type { Content, ReadMark } from "./protocol.js";
export type { Clock, Socket, SocketClass, Store } from "./surroundings.js";
