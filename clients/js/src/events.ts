// Values that can be watched, named events, and the error that users of this library see.
// A listener that throws never stops the others or the client.

import { complain } from "./surroundings.js";

/** Something was refused or failed: `code` to branch on, `retry` whether the same may succeed later. */
export class FanfareError extends Error {
  override readonly name = "FanfareError";

  constructor(
    readonly code: string,
    message: string,
    readonly retry = false,
    /** The topic that was refused, or the error of the application that is behind this one. */
    readonly about?: unknown,
  ) {
    super(message);
  }
}

/** A value that changes: read `value`, or be told now and whenever it changes. Svelte takes it as a store. */
export interface Observable<T> {
  readonly value: T;
  subscribe(listener: (value: T) => void): () => void;
}

export class Value<T> implements Observable<T> {
  #emitter = new Emitter();

  constructor(public value: T) {}

  set(value: T): void {
    if (value === this.value) return;
    this.value = value;
    this.#emitter.emit("", value);
  }

  subscribe(listener: (value: T) => void): () => void {
    const off = this.#emitter.on("", listener);
    attempt(listener, this.value);
    return off;
  }
}

type Listener = (event: any) => unknown;

export class Emitter {
  #listeners: [string, Listener][] = [];

  on(name: string, listener: Listener): () => void {
    const own: [string, Listener] = [name, listener];
    this.#listeners.push(own);
    return () => {
      this.#listeners = this.#listeners.filter((other) => other !== own);
    };
  }

  of(name: string): Listener[] {
    return this.#listeners.filter(([own]) => own === name).map(([, listener]) => listener);
  }

  emit(name: string, event: unknown): void {
    for (const listener of this.of(name)) attempt(listener, event);
  }

  /** An error goes to who listens for errors, else to the console. */
  fail(error: FanfareError): void {
    if (this.of("error")[0]) this.emit("error", error);
    else complain(error);
  }
}

function attempt(listener: Listener, event: unknown): void {
  try {
    listener(event);
  } catch (error) {
    complain(error);
  }
}
