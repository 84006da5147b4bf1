// Who speaks when: a lane of bars for each voice, the list of turns, and RTTM files. Bars are
// elements of SVG pictures whose units are seconds, so that a view box zooms them.
"use strict";

class Turns {
  // root: the player, whose lanes have their bars. view: its view. seek: called with seconds.
  constructor(root, view, seek) {
    this.view = view;
    this.seek = seek;
    this.lanes = [...root.querySelectorAll(".lane")].filter((lane) => !lane.hidden);
    this.all = this.lanes.flatMap(turnsOf).sort((a, b) => a.start - b.start);
    const kinds = new Set(this.all.map(({ kind }) => kind));
    this.several = kinds.size > 1;
    const found = this.all.filter(({ kind }) => kind === "found" || !this.several);
    this.starts = found.map(({ start }) => start);
    this.#list(root.querySelector(".turns"));
    this.#overview(root.querySelector(".overview"), found);
  }

  // Show the part of the view.
  show() {
    for (const { lastElementChild: bars } of this.lanes) {
      bars.setAttribute("viewBox", `${this.view.left} 0 ${this.view.span} 1`);
    }
  }

  // Fade the lanes of other voices than the chosen one; those of all voices for the mixture.
  choose(voice) {
    for (const lane of this.lanes) {
      lane.classList.toggle("other", voice !== "0" && lane.dataset.voice !== voice);
    }
  }

  // Start of the next turn, if there is one.
  after(position) {
    return this.starts.find((start) => start > position + 0.01);
  }

  // Start of the last turn that began more than `margin` seconds before, if there is one.
  before(position, margin) {
    return this.starts.findLast((start) => start < position - margin);
  }

  #list(list) {
    if (!list) return;
    list.hidden = !this.all.length;
    list.querySelector(".count").textContent = this.all.length;
    list.querySelector(".kind").hidden = !this.several;
    list.querySelector("tbody").replaceChildren(...this.all.map((turn) => this.#row(turn)));
  }

  #row(turn) {
    const row = document.createElement("tr"), button = document.createElement("button");
    button.type = "button";
    button.className = "start";
    button.textContent = clock(turn.start);
    button.addEventListener("click", () => this.seek(turn.start));
    const name = document.createElement("span");
    name.dataset.called = turn.source;
    name.textContent = turn.lane.querySelector(".who").textContent;
    const cells = [button, `${(turn.stop - turn.start).toFixed(1)} s`, name];
    if (this.several) cells.push(turn.kind);
    for (const cell of cells) row.insertCell().append(cell);
    return row;
  }

  // Draw all turns into the overview, one row for each voice.
  #overview(overview, turns) {
    overview.querySelector("svg")?.remove();
    overview.classList.toggle("spoken", turns.length > 0);
    if (!turns.length) return;
    const picture = svgElement("svg"), n = this.lanes.length;
    for (const [name, value] of Object.entries({
      viewBox: `0 0 ${this.view.duration} ${n}`, preserveAspectRatio: "none", "aria-hidden": true,
    })) picture.setAttribute(name, value);
    for (const turn of turns) {
      const bar = barOf(turn, this.lanes.indexOf(turn.lane) + 0.15, 0.7);
      bar.dataset.voice = turn.lane.dataset.voice;
      picture.append(bar);
    }
    overview.prepend(picture);
  }
}

// The turns in a lane: {start, stop, kind, source, lane}; the kind is `reference` or `found`.
function turnsOf(lane) {
  return [...lane.querySelectorAll("rect")].map((bar) => {
    const [start, seconds] = ["x", "width"].map((name) => Number(bar.getAttribute(name)));
    const { dataset: { source } } = lane;
    return { start, stop: start + seconds, kind: bar.parentElement.classList[0], source, lane };
  });
}

// An element in the namespace of the pictures on the page.
function svgElement(name) {
  return document.createElementNS(document.querySelector("svg").namespaceURI, name);
}

function barOf({ start, stop }, y, height) {
  const bar = svgElement("rect");
  const facts = { x: start.toFixed(2), width: (stop - start).toFixed(2), y, height };
  for (const [name, value] of Object.entries(facts)) bar.setAttribute(name, value);
  const title = bar.appendChild(svgElement("title"));
  title.textContent = `${start.toFixed(1)} to ${stop.toFixed(1)} s`;
  return bar;
}

// Draw turns, {start, stop} each, into the lane of a voice.
function fillLane(lane, turns) {
  const seconds = turns.reduce((sum, { start, stop }) => sum + stop - start, 0);
  const count = `${turns.length} turn${turns.length === 1 ? "" : "s"}`;
  const words = turns.length ? `${count}, ${seconds.toFixed(1)} s` : "not heard";
  lane.querySelector(".talked").textContent = words;
  lane.querySelector("g.found").replaceChildren(...turns.map((turn) => barOf(turn, 0.1, 0.8)));
}

// Turns, {start, stop, speaker} each, in the Rich Transcription Time Marked format; see
// `spikesep.separation.tracks.rttm`.
function rttm(recording, turns) {
  const word = (text) => text.replace(/\s+/g, "_");
  const lines = turns.map(({ start, stop, speaker }) =>
    `SPEAKER ${word(recording)} 1 ${start.toFixed(2)} ${(stop - start).toFixed(2)} ` +
    `<NA> <NA> ${word(speaker)} <NA> <NA>\n`);
  return new Blob(lines, { type: "text/plain" });
}
