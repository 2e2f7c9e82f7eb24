// The entry point `@fanfare/client/react`: a hook with the list, the unread count and how to mark as read. Takes a
// client that the application made; never makes or closes one.

import { useCallback, useMemo, useSyncExternalStore } from "react";

import type { State } from "./connection.js";
import type { Observable } from "./events.js";
import type { Fanfare } from "./fanfare.js";
import { FeedSource } from "./feed.js";
import type { Feed, FeedOptions } from "./feed.js";
import type { Notification } from "./http.js";

export type { FeedOptions };

export interface FanfareView<Data = unknown> extends Feed<Data> {
  /** How much is unread in the user's own stream, on whichever device. */
  unread: number;
  state: State;
  markRead: (...which: (string | Notification<any>)[]) => Promise<void>;
}

function useObservable<T>(observable: Observable<T>): T {
  const subscribe = useCallback((changed: () => void) => observable.subscribe(changed), [observable]);
  const get = () => observable.value;
  return useSyncExternalStore(subscribe, get, get);
}

/** The newest notifications of a stream, kept right. What the list has got counts as handled. */
export function useFanfare<Data = unknown>(fanfare: Fanfare<Data>, { stream, limit }: FeedOptions = {}): FanfareView<Data> {
  const source = useMemo(() => new FeedSource<Data>(fanfare, { stream, limit }), [fanfare, stream, limit]);
  const feed = useSyncExternalStore(source.subscribe, source.get, source.get);
  const unread = useObservable(fanfare.unread);
  const state = useObservable(fanfare.state);
  const markRead = useCallback((...which: (string | Notification<any>)[]) => fanfare.markRead(...which), [fanfare]);
  return { ...feed, unread, state, markRead };
}
