// What applications may write, and what they may not: checked by tsc against the built types.

import { Fanfare, FanfareError } from "@fanfare/client";
import type { Notification, Page, State } from "@fanfare/client";
import { useFanfare } from "@fanfare/client/react";

interface Order {
  order: number;
}

const fanfare = new Fanfare<Order>({ url: "https://push.example.com", token: async () => "jwt" });

export const off: () => void = fanfare.on("notification", async ({ data, title, seq, stream, read }) => {
  const all: [number, string | null, number | undefined, string, boolean] = [data.order, title, seq, stream, read];
  return all;
});
fanfare.on("error", (error) => error instanceof FanfareError && error.code.toUpperCase());
fanfare.on("gap", ({ stream, from, to }) => [stream, (from ?? 0) + to]);
// @ts-expect-error: there is no such event.
fanfare.on("notifications", () => {});
// @ts-expect-error: data is what the client was made for.
fanfare.on("notification", ({ data }) => data.parcel);
// @ts-expect-error: a token is needed.
new Fanfare({ url: "https://push.example.com" });

export const until: number | undefined = ((state: State) => (state.name === "waiting" ? state.until : undefined))(fanfare.state.value);
// @ts-expect-error: only a state that waits says until when.
fanfare.state.value.until;
// @ts-expect-error: the client alone sets it.
fanfare.unread.value = 3;

export async function all(): Promise<Notification<Order>[]> {
  const page: Page<Order> = await fanfare.inbox({ stream: "everyone", limit: 10, unread: true });
  await fanfare.markRead("id", ...page.entries);
  for await (const one of fanfare) return [...page.entries, one];
  return page.entries;
}

export function View(): string {
  const { notifications, unread, state, more, markRead } = useFanfare(fanfare, { stream: "user", limit: 20 });
  void more?.();
  void markRead(...notifications);
  return `${unread} ${state.name} ${notifications[0]?.data.order}`;
}
