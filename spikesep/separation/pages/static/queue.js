// Queue of recordings. They are sent to the server one by one; each response contains progress
// lines, then the voices.
"use strict";

const ACTS = {
  waiting: ["remove"],
  working: ["cancel"],
  done: ["listen", "remove"],
  failed: ["retry", "remove"],
};

class Entry {
  // blob: the recording. name: its file name.
  constructor(blob, name) {
    this.blob = blob;
    this.name = name;
    this.result = null; // {report, parts: {name: Blob}}
    this.names = {}; // given to voices by the user
    this.all = false; // whether voices in which nobody is heard are shown
    this.row = document.querySelector("template.row").content.firstElementChild.cloneNode(true);
    for (const label of this.row.querySelectorAll(".file, .of")) label.textContent = name;
    this.bar = this.row.querySelector(".progress");
    this.bar.setAttribute("aria-label", `Separation of ${name}`);
    const acts = {
      listen: () => listen(this),
      retry: () => Queue.wait(this),
      cancel: () => this.aborter.abort(),
      remove: () => Queue.remove(this),
    };
    for (const [act, go] of Object.entries(acts)) this.#button(act).addEventListener("click", go);
    this.set("waiting", "Waiting");
  }

  #button(act) {
    return this.row.querySelector(`button.${act}`);
  }

  set(state, text) {
    const hadFocus = this.row.contains(document.activeElement);
    this.state = this.row.dataset.state = state;
    this.bar.hidden = state !== "working";
    this.bar.removeAttribute("value");
    for (const act of new Set(Object.values(ACTS).flat())) {
      this.#button(act).hidden = !ACTS[state].includes(act);
    }
    if (hadFocus) this.#button(ACTS[state][0]).focus();
    this.tell(text);
  }

  tell(text) {
    this.row.querySelector(".state").textContent = text;
  }

  async separate() {
    this.aborter = new AbortController();
    this.set("working", "Reading …");
    try {
      await this.#check();
      this.begun = null;
      const onShare = (share) => this.#progress(share);
      this.result = await send(this.blob, this.name, this.aborter.signal, onShare);
      this.blob = null;
      this.set("done", this.result.report.summary);
      announce(`${this.name} is separated`);
    } catch (error) {
      const cancelled = error.name === "AbortError";
      this.set("failed", cancelled ? "Cancelled" : error.message);
      announce(cancelled ? `${this.name} is cancelled` : error.message);
    }
  }

  async #check() {
    const size = this.blob.size / 1e6;
    const most = Number(document.querySelector(".drop").dataset.megabytes);
    if (size > most) {
      throw new Error(
        `${this.name} has ${size.toFixed(1)} MB, and the limit is ${most} MB; start ` +
        `spikesep-serve with --max-megabytes ${Math.ceil(size)}, or use spikesep-infer`);
    }
    await this.blob.slice(0, 1).arrayBuffer().catch(() => {
      const reason = "the browser cannot read it; if it is a folder, drop the files in it";
      throw new Error(`${this.name}: ${reason}`);
    });
  }

  #progress(share) {
    const now = performance.now();
    this.begun ??= now;
    const left = share > 0 ? (((now - this.begun) / 1000) * (1 - share)) / share : null;
    this.bar.value = share;
    const time = left === null ? "" : `, ${clock(left + 0.99).slice(0, -2)} left`;
    this.tell(`${Math.floor(100 * share)} %${time}`);
  }
}

const Queue = {
  list: document.querySelector(".queue"),
  entries: [],
  running: false,

  add(blob, name) {
    const entry = new Entry(blob, name);
    this.entries.push(entry);
    this.list.append(entry.row);
    this.run();
  },

  wait(entry) {
    entry.set("waiting", "Waiting");
    this.run();
  },

  remove(entry) {
    const next = entry.row.nextElementSibling ?? entry.row.previousElementSibling;
    this.entries = this.entries.filter((other) => other !== entry);
    entry.row.remove();
    (next?.querySelector("button:not([hidden])") ?? document.querySelector(".pick")).focus();
    forget(entry);
    this.changed();
  },

  get done() {
    return this.entries.filter(({ state }) => state === "done");
  },

  // Separate until no entry is waiting; show the first one that finishes.
  async run() {
    if (this.running) return;
    this.running = true;
    let shown = false;
    for (let entry; (entry = this.entries.find(({ state }) => state === "waiting")); ) {
      await entry.separate();
      this.changed();
      if (entry.state === "done" && !shown) {
        shown = true;
        await listen(entry);
      }
    }
    this.running = false;
  },

  changed() {
    document.querySelector("button.save-all").hidden = this.done.length < 2;
  },
};

// Send a recording to the server; returns {report, parts}.
async function send(blob, name, signal, onShare) {
  const headers = {
    "Content-Type": "application/octet-stream",
    "X-File-Name": encodeURIComponent(name),
  };
  const request = fetch("/separate", { method: "POST", headers, body: blob, signal });
  const answer = await request.catch((error) => {
    if (error.name === "AbortError") throw error;
    throw new Error("spikesep-serve does not respond; start it again");
  });
  if (answer.ok) return receive(answer.body.getReader(), onShare);
  const told = (await answer.json().catch(() => ({}))).error;
  throw new Error(told ?? `spikesep-serve responds with status ${answer.status}`);
}

// Read JSON lines up to the one with the sizes of the files after it.
async function receive(reader, onShare) {
  let rest = new Uint8Array(), last = null;
  const pieces = [];
  for (let read; !(read = await reader.read()).done; ) {
    if (last) {
      pieces.push(read.value);
      continue;
    }
    rest = new Uint8Array(await new Blob([rest, read.value]).arrayBuffer());
    for (let end; !last && (end = rest.indexOf(10)) >= 0; rest = rest.subarray(end + 1)) {
      const line = JSON.parse(new TextDecoder().decode(rest.subarray(0, end)));
      if (line.error) throw new Error(line.error);
      if (line.parts) last = line;
      else onShare(line.share);
    }
    if (last) pieces.push(rest);
  }
  return taken(last, new Blob(pieces));
}

function taken(line, content) {
  const sizes = Object.entries(line?.parts ?? {});
  if (!line || content.size !== sizes.reduce((sum, [, size]) => sum + size, 0)) {
    throw new Error("The response of spikesep-serve is incomplete; try again, or restart it");
  }
  const parts = {};
  let at = 0;
  for (const [name, size] of sizes) parts[name] = content.slice(at, (at += size), "audio/wav");
  return { report: line.report, parts };
}
