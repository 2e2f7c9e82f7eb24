// Building and finding elements. Texts go in as text nodes only: what a
// notification says can never become markup.

/** The element with this id; the page always has it. */
export const byId = (id) => document.getElementById(id);

/** A new element; `on…` properties are listeners, `data` is the dataset, others attributes. */
export function el(tag, props = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "data") Object.assign(element.dataset, value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

// Made once: making a formatter costs more than all else that a line of the log needs.
const TIME = new Intl.DateTimeFormat([], { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const DATE_AND_TIME = new Intl.DateTimeFormat([], { dateStyle: "full", timeStyle: "long" });

/** A time of day as the reader's own clock shows it, with the whole date behind it. */
export function clockTime(at) {
  const date = new Date(at);
  if (Number.isNaN(date.getTime())) return el("span", {}, String(at));
  return el("time", { datetime: date.toISOString(), title: DATE_AND_TIME.format(date) }, TIME.format(date));
}

/** What the browser keeps between visits. Private windows may refuse: then nothing is kept. */
export const store = {
  read(key, fallback) {
    try {
      return JSON.parse(localStorage.getItem(`fanfare.demo.${key}`)) ?? fallback;
    } catch {
      return fallback;
    }
  },
  write(key, value) {
    try {
      localStorage.setItem(`fanfare.demo.${key}`, JSON.stringify(value));
    } catch {
      // Full or refused; the page works on without.
    }
  },
};
