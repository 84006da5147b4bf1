// The player of both pages. All sources of one recording play in sync; the chosen one is audible,
// or several at the volumes of their faders. Nothing is fetched from a network.
"use strict";

const FADE = 0.02; // seconds of a crossfade
const BOTH = "both"; // value of the choice that plays all sources with a fader
const SILENT = 1 / 32768; // of full scale: one 16-bit step

// Decode an audio file to an AudioBuffer, at the given rate if the browser supports it.
function decode(bytes, rate) {
  const context = new OfflineAudioContext(1, 1, Math.max(8000, Math.min(96000, rate)));
  return context.decodeAudioData(bytes);
}

class Player {
  static #context = null;
  static #current = null; // the player that is playing

  // root: the element with the controls. buffers: an AudioBuffer for each of its radio buttons, by
  // value; the first is the mixture. top: the highest frequency shown, in Hz.
  constructor(root, buffers, top) {
    this.root = root;
    this.buffers = buffers;
    const radios = [...root.querySelectorAll("input[type=radio]")];
    this.choices = radios.filter(({ value }) => value in buffers || value === BOTH);
    this.choices.forEach((input, k) => this.#label(input, k < 9 ? k + 1 : ""));
    const faders = [...root.querySelectorAll("input.fader")];
    this.faders = faders.filter(({ dataset }) => dataset.source in buffers);
    this.duration = Math.max(...Object.values(buffers).map((buffer) => buffer.duration));
    this.output = null;
    this.gains = {};
    this.nodes = null; // while playing
    this.offset = 0; // seconds: position, or position when playback began
    this.mixed = null; // samples of BOTH
    this.following = null; // requested for showing the position
    this.#listen();
    const rate = buffers[this.#first].sampleRate, samples = (name) => this.#samples(name);
    this.painter = new Painter(root, this.view, { rate, samples, first: this.#first, top });
    this.#measure();
    this.turns = new Turns(root, this.view, (seconds) => this.seek(seconds));
    this.view.zoomBy(0);
    this.choose((this.choices.find((input) => input.checked) ?? this.choices[0]).value);
    this.#moved(true);
    root.player = this;
    root.tabIndex = -1; // keeps the keyboard focus after a click
    root.classList.add("ready");
  }

  #listen() {
    const root = this.root;
    this.listening = new AbortController();
    const { signal } = this.listening;
    const on = (target, type, act) => target.addEventListener(type, act, { signal });
    this.seeker = root.querySelector(".seek");
    this.seeker.max = this.duration;
    const acts = { seek: (seconds) => this.seek(seconds), changed: () => this.#changed() };
    this.view = new View(root, this.duration, acts, signal);
    on(root.querySelector(".play"), "click", () => this.toggle());
    on(this.seeker, "input", () => this.seek(Number(this.seeker.value)));
    on(root, "keydown", (event) => this.#key(event));
    for (const input of this.choices) on(input, "change", () => this.choose(input.value));
    for (const fader of this.faders) on(fader, "input", () => this.#faded());
    on(document, "theme", () => this.draw());
    this.resized = new ResizeObserver(() => this.draw());
    this.resized.observe(this.view.lanes);
  }

  // Show the key that chooses a sound.
  #label(input, key) {
    input.parentElement.querySelector("kbd").textContent = key;
  }

  // Measure the levels of the sources, for the pictures and as text.
  #measure() {
    const names = Object.keys(this.buffers);
    const measured = names.map((name) => [name, levels(this.#samples(name))]);
    const silent = measured[0][1].peak < SILENT;
    this.painter.scale(Math.max(SILENT, ...measured.map(([, { peak }]) => peak)), silent);
    this.root.querySelector(".silent").hidden = !silent;
    for (const [name, { peak, rms }] of measured) {
      const label = this.root.querySelector(`.level[data-source="${name}"]`);
      const words = `peak ${inDecibels(peak)}, mean ${inDecibels(rms)} dBFS`;
      if (label) label.textContent = peak < SILENT ? "silent" : words;
    }
  }

  get playing() {
    return this.nodes !== null;
  }

  get position() {
    if (!this.playing) return this.offset;
    const played = Math.max(0, Player.#context.currentTime - this.begun);
    return Math.min(this.duration, this.offset + played);
  }

  toggle() {
    if (this.playing) this.pause();
    else this.play();
  }

  play(from = this.position) {
    const context = (Player.#context ??= new AudioContext());
    context.resume();
    if (Player.#current !== this) Player.#current?.pause();
    Player.#current = this;
    this.#stop();
    this.#connect(context);
    this.offset = from > this.duration - 0.01 ? 0 : from;
    this.begun = context.currentTime + 0.01;
    this.nodes = Object.entries(this.buffers).map(([name, buffer]) => {
      const node = new AudioBufferSourceNode(context, { buffer });
      node.connect(this.gains[name]);
      node.start(this.begun, this.offset);
      return node;
    });
    const nodes = this.nodes;
    nodes[0].onended = () => this.nodes === nodes && this.#ended();
    this.#showPlaying();
    this.#moved(true);
    this.#follow();
  }

  pause() {
    this.offset = this.position;
    this.#stop();
    this.#showPlaying();
    this.#moved();
  }

  seek(seconds) {
    const wanted = Math.min(this.duration, Math.max(0, seconds));
    if (this.playing && wanted < this.duration) return this.play(wanted);
    if (this.playing) this.pause();
    this.offset = wanted;
    this.#moved(true);
  }

  // Switch to another source at the same position.
  choose(name) {
    this.source = name;
    for (const input of this.choices) input.checked = input.value === name;
    this.#setGains();
    this.#describe();
    this.turns.choose(this.#chosen.dataset.voice);
    this.draw();
  }

  // Rename a source.
  call(name, text) {
    const labels = this.root.querySelectorAll(`[data-called="${name}"]`);
    for (const label of labels) label.textContent = text;
    this.choices.find((input) => input.value === name)?.setAttribute("aria-label", text);
    this.#describe();
  }

  remove() {
    this.pause();
    this.listening.abort();
    this.resized.disconnect();
    this.painter.remove();
    this.root.classList.remove("ready");
  }

  // Draw the pictures of the chosen source.
  draw() {
    this.painter.draw(this.source, this.#chosen?.dataset.voice);
  }

  get #first() {
    return Object.keys(this.buffers)[0];
  }

  get #chosen() {
    return this.choices.find((input) => input.value === this.source);
  }

  #samples(name) {
    if (name !== BOTH) return this.buffers[name].getChannelData(0);
    const sources = this.faders.map(({ dataset }) => dataset.source);
    return (this.mixed ??= blend(sources.map((s) => [this.#samples(s), this.#gain(s)])));
  }

  // Target gain of a source.
  #gain(name) {
    if (this.source !== BOTH) return name === this.source ? 1 : 0;
    const fader = this.faders.find(({ dataset }) => dataset.source === name);
    return fader ? fader.value / fader.max : 0;
  }

  #setGains() {
    for (const [name, { gain }] of Object.entries(this.gains)) {
      const now = Player.#context.currentTime;
      gain.cancelScheduledValues(now);
      gain.setValueAtTime(gain.value, now);
      gain.linearRampToValueAtTime(this.#gain(name), now + FADE);
    }
  }

  #faded() {
    this.mixed = null;
    this.painter.forget(BOTH);
    this.choose(BOTH);
  }

  #describe() {
    const heard = this.#chosen.getAttribute("aria-label");
    for (const label of this.root.querySelectorAll(".chosen")) label.textContent = heard;
  }

  #connect(context) {
    if (this.output) return;
    this.output = new GainNode(context);
    this.output.connect(context.destination);
    for (const name of Object.keys(this.buffers)) {
      this.gains[name] = new GainNode(context, { gain: this.#gain(name) });
      this.gains[name].connect(this.output);
    }
  }

  #stop() {
    const nodes = this.nodes ?? [];
    this.nodes = null;
    for (const node of nodes) {
      node.stop();
      node.disconnect();
    }
  }

  #ended() {
    this.#stop();
    this.offset = this.duration;
    if (this.root.querySelector(".repeat").checked) return this.play(0);
    this.#showPlaying();
    this.#moved();
  }

  #showPlaying() {
    const button = this.root.querySelector(".play");
    button.setAttribute("aria-label", this.playing ? "Pause" : "Play");
    button.classList.toggle("on", this.playing);
  }

  // Show the position at each refresh, in a single loop.
  #follow() {
    cancelAnimationFrame(this.following);
    if (!this.playing) return;
    this.#moved();
    this.following = requestAnimationFrame(() => this.#follow());
  }

  // Show the position. After a jump, the pictures show the part around it.
  #moved(jumped = false) {
    const at = this.position, spoken = `${at.toFixed(1)} of ${this.duration.toFixed(1)} seconds`;
    this.seeker.value = at;
    this.seeker.setAttribute("aria-valuetext", spoken);
    this.root.querySelector(".clock").textContent = `${clock(at)} / ${clock(this.duration)}`;
    this.view.moved(at, jumped);
  }

  // The view shows another part.
  #changed() {
    this.turns.show();
    this.draw();
  }

  #key(event) {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    if (event.target.matches("[type=text]")) return;
    const own = event.target.matches("button, a, summary, [type=checkbox]"); // use the space bar themselves
    const choice = this.choices[Number(event.key) - 1];
    if (event.key === " " && !own) this.toggle();
    else if (event.key.match(/^[1-9]$/) && choice) {
      this.choose(choice.value);
      if (event.target.matches("[type=radio]")) choice.focus();
    } else if (!this.#move(event.key)) return;
    event.preventDefault();
  }

  // Move the position or the view by a key; returns whether there is such a key.
  #move(key) {
    const { view, position, turns } = this, margin = this.playing ? 0.5 : 0.01;
    const moves = {
      ",": () => this.seek(position - 1),
      ".": () => this.seek(position + 1),
      "n": () => this.seek(turns.after(position) ?? position),
      "p": () => this.seek(turns.before(position, margin) ?? 0),
      "+": () => view.zoomBy(2),
      "=": () => view.zoomBy(2),
      "-": () => view.zoomBy(1 / 2),
      "0": () => view.zoomBy(0),
      "<": () => view.scrollBy(-view.span / 2),
      ">": () => view.scrollBy(view.span / 2),
    };
    moves[key]?.();
    return key in moves;
  }
}

Theme.begin();
