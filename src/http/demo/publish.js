// The form that publishes: what is in it as a request, the answer, and the curl line.

import { byId, el } from "./dom.js";

const EXAMPLES = {
  order: {
    to: "users", title: "Your order is on its way", body: "Parcel 42 left the warehouse and arrives tomorrow.",
    type: "order.shipped", priority: "normal", data: '{"order": 42, "carrier": "Pigeon Express"}',
  },
  alarm: {
    to: "users", title: "Door opened", body: "The front door was opened at night.",
    type: "home.alarm", priority: "high", data: '{"sensor": "door-1"}',
  },
  news: {
    to: "topic", title: "New release", body: "Version 2 is out. Whoever follows the topic reads this.",
    type: "news.release", priority: "low", data: "",
  },
};

export class Publisher {
  /** `key()` is the publisher key or null, `keyForCurl()` what the curl line shows for it. */
  constructor({ key, keyForCurl }) {
    this.key = key;
    this.keyForCurl = keyForCurl;
    this.form = byId("publish-form");
    this.form.addEventListener("input", (event) => {
      event.target.dataset.chosen = "yes";
      this.refresh();
    });
    this.form.addEventListener("submit", (event) => this.submit(event));
    this.form.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) this.form.requestSubmit();
    });
    byId("new-idempotency").addEventListener("click", () => {
      this.field("idempotency").value = newKey();
      this.refresh();
    });
    byId("copy").addEventListener("click", () => this.copy());
    for (const button of document.querySelectorAll("[data-example]")) {
      button.addEventListener("click", () => this.fill(EXAMPLES[button.dataset.example]));
    }
    this.refresh();
  }

  field(name) {
    return this.form.elements[name];
  }

  /** Sends to this user and device unless somebody chose others. */
  aimAt(user, device) {
    for (const [name, value] of [["users", user], ["device-user", user], ["device-name", device]]) {
      if (!this.field(name).dataset.chosen) this.field(name).value = value;
    }
    this.refresh();
  }

  fill(example) {
    for (const [name, value] of Object.entries(example)) this.field(name).value = value;
    for (const name of ["idempotency", "collapse", "later"]) this.field(name).value = "";
    this.refresh();
    byId("publish").focus();
  }

  refresh() {
    const to = this.field("to").value;
    for (const part of this.form.querySelectorAll("[data-to]")) part.hidden = part.dataset.to !== to;
    const { request, problem, where } = this.read();
    byId("data-error").textContent = problem ?? "";
    for (const name of ["data", "ttl", "later"]) this.field(name).setAttribute("aria-invalid", String(name === where));
    byId("curl").textContent = problem ? problem : this.curl(request);
    byId("copy").disabled = Boolean(problem);
  }

  /** `{request}`, or `{problem, where}` if a field cannot be sent as it is. */
  read() {
    const request = { to: this.target() };
    for (const name of ["type", "title", "body"]) {
      if (this.field(name).value.trim()) request[name] = this.field(name).value.trim();
    }
    const data = this.field("data").value.trim();
    try {
      if (data) request.data = JSON.parse(data);
    } catch (error) {
      return { problem: `The data is not JSON: ${error.message}`, where: "data" };
    }
    request.priority = this.field("priority").value;
    const ttl = this.field("ttl").value.trim();
    if (ttl && !/^\d+$/.test(ttl)) return { problem: "The lifetime is whole seconds, 0 or more.", where: "ttl" };
    if (ttl) request.ttl = Number(ttl);
    const collapse = this.field("collapse").value.trim();
    if (collapse) request.collapse_key = collapse;
    const later = this.field("later").value.trim();
    if (later && !/^[1-9]\d*$/.test(later)) return { problem: "It is delivered now, or after whole seconds.", where: "later" };
    if (later) request.deliver_at = new Date(Date.now() + 1_000 * Number(later)).toISOString();
    return { request };
  }

  target() {
    const text = (name) => this.field(name).value.trim();
    switch (this.field("to").value) {
      case "devices":
        return { devices: [{ user: text("device-user"), device: text("device-name") }] };
      case "topic":
        return { topic: text("topic") };
      case "everyone":
        return { everyone: true };
      default:
        return { users: text("users").split(/[\s,]+/).filter(Boolean) };
    }
  }

  curl(request) {
    const idempotency = this.field("idempotency").value.trim();
    const lines = [
      `curl -i ${location.origin}/v1/notifications`,
      `-H "Authorization: Bearer ${this.keyForCurl()}"`,
      "-H 'Content-Type: application/json'",
      idempotency && `-H ${quoted(`Idempotency-Key: ${idempotency}`)}`,
      `-d ${quoted(JSON.stringify(request))}`,
    ];
    return lines.filter(Boolean).join(" \\\n  ");
  }

  async copy() {
    const button = byId("copy");
    try {
      await navigator.clipboard.writeText(byId("curl").textContent);
      button.textContent = "Copied";
    } catch {
      // No clipboard over plain http on another host: select it for the person's own copy.
      getSelection().selectAllChildren(byId("curl"));
      button.textContent = "Selected";
    }
    setTimeout(() => (button.textContent = "Copy"), 1_500);
  }

  async submit(event) {
    event.preventDefault();
    const { request, problem, where } = this.read();
    if (problem) {
      byId("more").open = true;
      return this.field(where).focus();
    }
    byId("publish").disabled = true;
    try {
      this.show(await this.post(request));
    } catch {
      this.show({ ok: false, label: "No answer", title: "The node did not answer", detail: "It may be stopping, or the network is away." });
    } finally {
      byId("publish").disabled = false;
    }
  }

  async post(request) {
    const headers = { "Content-Type": "application/json", Authorization: `Bearer ${(await this.key()) ?? ""}` };
    const idempotency = this.field("idempotency").value.trim();
    if (idempotency) headers["Idempotency-Key"] = idempotency;
    const response = await fetch("/v1/notifications", {
      method: "POST", headers, body: JSON.stringify(request), signal: AbortSignal.timeout(15_000),
    });
    const answer = await response.json().catch(() => ({}));
    const replayed = response.headers.get("Idempotent-Replayed") === "true";
    return { ok: response.ok, label: String(response.status), replayed, ...answer };
  }

  show(answer) {
    byId("answer").replaceChildren(answer.ok ? accepted(answer, (method, id) => this.ask(method, id)) : refused(answer));
  }

  /** Asks what became of a notification, or takes it back; answers with a sentence. */
  async ask(method, id) {
    try {
      const headers = { Authorization: `Bearer ${(await this.key()) ?? ""}` };
      const response = await fetch(`/v1/notifications/${id}`, { method, headers, signal: AbortSignal.timeout(15_000) });
      const answer = await response.json().catch(() => ({}));
      if (!response.ok) return answer.detail ?? `The node answered ${response.status}.`;
      const counts = Object.entries(answer.counts ?? {}).filter(([, count]) => count > 0);
      const become = counts.map(([state, count]) => `${count} ${state}`).join(", ");
      return become ? `${answer.status}: ${become}` : answer.status;
    } catch {
      return "The node did not answer.";
    }
  }
}

function accepted({ label, status, id, recipients, online, replayed }, ask) {
  const counts = [
    recipients === null || recipients === undefined ? null : `${recipients} ${recipients === 1 ? "recipient" : "recipients"}`,
    online === null || online === undefined ? null : `${online} online`,
    replayed ? "answered before: same idempotency key" : null,
  ];
  return el(
    "div",
    { class: "answer ok" },
    el("p", {}, el("strong", {}, `${label} ${status ?? ""}`), " ", counts.filter(Boolean).join(", ")),
    id ? el("code", {}, id) : null,
    // What was sent to who is connected, now or never, is kept nowhere.
    id && status !== "sent" ? afterwards(id, ask) : null,
  );
}

function afterwards(id, ask) {
  const said = el("p", { role: "status" });
  const button = (text, method) =>
    el("button", { type: "button", onclick: async () => (said.textContent = await ask(method, id)) }, text);
  return el("div", {}, el("div", { class: "row" }, button("What became of it?", "GET"), button("Cancel it", "DELETE")), said);
}

function refused({ label, title, detail, code }) {
  return el(
    "div",
    { class: "answer bad" },
    el("p", {}, el("strong", {}, label), " ", title ?? "Refused"),
    detail ? el("p", {}, detail) : null,
    code ? el("code", {}, code) : null,
  );
}

function quoted(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

// Not randomUUID: that is absent on plain http from another machine.
function newKey() {
  const bytes = crypto.getRandomValues(new Uint8Array(12));
  return `demo-${Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("")}`;
}
