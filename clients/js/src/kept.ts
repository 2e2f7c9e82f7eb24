// What outlives the page: the device's name and, if wished, its positions. Owns their keys in the store.
// Never keeps a token or a notification. A store that fails (full, forbidden) is as good as none.

import type { Store } from "./surroundings.js";

export class Kept {
  #store?: Store | null;
  #prefix: string;

  constructor(store: Store | null | undefined, url: string) {
    this.#store = store;
    this.#prefix = `fanfare:${url}:`;
  }

  /** The name of this device, made once. None where nothing can be kept: it would be another one each time. */
  async device(): Promise<string | undefined> {
    const known = await this.read("device");
    if (!known) await this.keep("device", `js-${Math.random()}${Math.random()}`);
    return known ?? this.read("device");
  }

  async read(key: string): Promise<any> {
    try {
      return JSON.parse((await this.#store!.getItem(this.#prefix + key))!) ?? undefined;
    } catch {}
  }

  async keep(key: string, value: unknown): Promise<void> {
    try {
      await this.#store!.setItem(this.#prefix + key, JSON.stringify(value));
    } catch {}
  }
}
