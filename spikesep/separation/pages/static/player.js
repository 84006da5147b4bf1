// The player of both pages. All sources of one recording play in sync; the chosen one is audible,
// or several at the volumes of their faders. Nothing is fetched from a network.
"use strict";

const FADE = 0.02; // seconds of a crossfade
const BOTH = "both"; // value of the choice that plays all sources with a fader
const SILENT = 1 / 32768; // of full scale: one 16-bit step
const CLOSEST = 0.05; // seconds shown at the largest zoom

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
    this.faders = [...root.querySelectorAll("input.fader")];
    this.duration = Math.max(...Object.values(buffers).map((buffer) => buffer.duration));
    this.top = top;
    this.output = null;
    this.gains = {};
    this.nodes = null; // while playing
    this.offset = 0; // seconds: position, or position when playback began
    this.zoom = 1;
    this.left = 0; // seconds: start of the pictures
    this.decibels = {}; // spectrograms, by source
    this.mixed = null; // samples of BOTH
    this.frame = null; // requested for painting
    this.following = null; // requested for showing the position
    this.#listen();
    this.#measure();
    this.zoomBy(1);
    this.choose((this.choices.find((input) => input.checked) ?? this.choices[0]).value);
    this.#moved();
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
    this.view = root.querySelector(".view");
    on(root.querySelector(".play"), "click", () => this.toggle());
    on(root.querySelector(".closer"), "click", () => this.zoomBy(2));
    on(root.querySelector(".wider"), "click", () => this.zoomBy(1 / 2));
    on(this.seeker, "input", () => this.seek(Number(this.seeker.value)));
    on(root, "keydown", (event) => this.#key(event));
    for (const input of this.choices) on(input, "change", () => this.choose(input.value));
    for (const fader of this.faders) on(fader, "input", () => this.#faded());
    on(this.view, "pointerdown", (event) => {
      this.view.setPointerCapture(event.pointerId);
      this.#point(event);
    });
    on(this.view, "pointermove", (event) => event.buttons && this.#point(event));
    on(document, "theme", () => this.paint());
    this.resized = new ResizeObserver(() => this.draw());
    this.resized.observe(this.view);
  }

  // Measure the levels of the sources, for the pictures and as text.
  #measure() {
    const names = Object.keys(this.buffers);
    const measured = names.map((name) => [name, levels(this.#samples(name))]);
    this.peak = Math.max(SILENT, ...measured.map(([, { peak }]) => peak));
    this.silent = measured[0][1].peak < SILENT;
    this.root.querySelector(".silent").hidden = !this.silent;
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

  // Seconds shown in the pictures.
  get span() {
    return this.duration / this.zoom;
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
    this.#moved();
  }

  // Switch to another source at the same position.
  choose(name) {
    this.source = name;
    for (const input of this.choices) input.checked = input.value === name;
    this.#setGains();
    this.#describe();
    this.draw();
  }

  // Rename a source.
  call(name, text) {
    const labels = this.root.querySelectorAll(`[data-called="${name}"]`);
    for (const label of labels) label.textContent = text;
    this.choices.find((input) => input.value === name)?.setAttribute("aria-label", text);
    this.#describe();
  }

  // Zoom around the position, which stays in place on the screen.
  zoomBy(factor) {
    const at = this.position, share = (at - this.left) / this.span;
    this.zoom = Math.min(Math.max(1, this.duration / CLOSEST), Math.max(1, this.zoom * factor));
    this.root.style.setProperty("--zoom", this.zoom);
    this.root.querySelector(".zoomed").textContent = `${+this.zoom.toFixed(1)}×`;
    this.#look(at - share * this.span);
    this.#moved();
  }

  remove() {
    this.pause();
    this.listening.abort();
    this.resized.disconnect();
    this.root.classList.remove("ready");
    this.paint = () => {};
  }

  // Paint once at the next screen refresh, however often it is requested.
  draw() {
    this.frame ??= requestAnimationFrame(() => this.paint());
  }

  paint() {
    this.frame = null;
    const wave = fit(this.view.querySelector(".wave"));
    const spectrum = fit(this.view.querySelector(".spectrum"));
    if (!wave || !spectrum) return; // not visible
    wave.dataset.voice = this.#chosen.dataset.voice;
    const ink = getComputedStyle(wave).color;
    drawWave(wave, this.#samples(this.source), ...this.#range, this.peak, ink);
    const shown = [spectrum.width, ...this.#range].join();
    if (this.shown !== shown) this.decibels = {};
    this.shown = shown;
    this.decibels[this.source] ??= this.#spectrogram(this.source, spectrum.width, this.#range);
    const loudest = () => this.#spectrogram(this.#first, spectrum.width).loudest;
    this.loudest ??= this.silent ? Infinity : loudest();
    drawSpectrogram(spectrum, this.decibels[this.source], this.loudest, SCALES[Theme.name]);
  }

  #spectrogram(name, width, range = []) {
    return spectrogram(this.#samples(name), this.#rate, width, this.top, ...range);
  }

  get #first() {
    return Object.keys(this.buffers)[0];
  }

  get #rate() {
    return this.buffers[this.#first].sampleRate;
  }

  // Samples shown in the pictures: from, to.
  get #range() {
    return [this.left * this.#rate, (this.left + this.span) * this.#rate];
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
    delete this.decibels[BOTH];
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

  #moved() {
    const at = this.position, spoken = `${at.toFixed(1)} of ${this.duration.toFixed(1)} seconds`;
    if (at < this.left || at > this.left + this.span) this.#look(at - 0.05 * this.span);
    this.seeker.value = at;
    this.seeker.setAttribute("aria-valuetext", spoken);
    this.root.querySelector(".clock").textContent = `${clock(at)} / ${clock(this.duration)}`;
    this.root.style.setProperty("--at", `${(100 * (at - this.left)) / this.span}%`);
  }

  // Start the pictures at `seconds`, or as close as the length of the recording allows.
  #look(seconds) {
    this.left = Math.max(0, Math.min(this.duration - this.span, seconds));
    this.root.style.setProperty("--left", `${(-100 * this.left) / this.duration}%`);
    drawTicks(this.view.querySelector(".axis"), this.left, this.span);
    this.draw();
  }

  #point(event) {
    const box = this.view.getBoundingClientRect();
    const share = Math.max(0, Math.min(1, (event.clientX - box.left) / box.width));
    this.seek(this.left + share * this.span);
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
    } else if (event.key === "," || event.key === ".") {
      this.seek(this.position + (event.key === "," ? -1 : 1));
    } else if ("+=-".includes(event.key)) this.zoomBy(event.key === "-" ? 1 / 2 : 2);
    else return;
    event.preventDefault();
  }
}

Theme.begin();
