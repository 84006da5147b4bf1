// The player of both pages: all sources of one recording run in step, and the chosen one is heard. Pictures are
// computed from the samples, so that they are as sharp as the screen; nothing is fetched from anywhere.
"use strict";

const FADE = 0.02; // seconds from one source to another
const RANGE = 70; // dB of a spectrogram, down from the loudest point of the first source
const WINDOW = 0.032; // seconds
const SCALES = {
  light: ["#fdfdfe", "#e3e9f3", "#b4c6e2", "#7698c9", "#40659f", "#213c6b", "#0d1730"],
  dark: ["#0d0f14", "#1c1838", "#49206b", "#8e2f6e", "#d3544d", "#f59d54", "#fdf0c0"],
};

// Light or dark: as the system has it, until the button says otherwise. Paper is light.
const Theme = {
  system: matchMedia("(prefers-color-scheme: dark)"),
  root: document.documentElement,
  get name() {
    return this.root.dataset.theme ?? (this.system.matches ? "dark" : "light");
  },
  get other() {
    return this.name === "dark" ? "light" : "dark";
  },
  set(name) {
    if (name === "light" || name === "dark") this.root.dataset.theme = name;
    else delete this.root.dataset.theme;
    this.show();
  },
  show() {
    for (const picture of document.querySelectorAll("source[data-dark]")) {
      picture.media = this.name === "dark" ? "all" : "not all";
    }
    document.querySelector("button.theme").textContent = this.name === "dark" ? "Light colours" : "Dark colours";
    document.dispatchEvent(new Event("theme"));
  },
  begin() {
    let kept = null;
    try { kept = localStorage.getItem("theme"); } catch { /* a page from the disk may be denied it */ }
    this.root.classList.add("script");
    document.querySelector("button.theme").addEventListener("click", () => {
      this.set(this.other);
      try { localStorage.setItem("theme", this.name); } catch { /* it is forgotten, then */ }
    });
    this.system.addEventListener("change", () => this.show());
    let onScreen = null;
    addEventListener("beforeprint", () => {
      onScreen = this.root.dataset.theme;
      this.set("light");
    });
    addEventListener("afterprint", () => this.set(onScreen));
    this.set(kept);
  },
};

// The samples of an audio file: an AudioBuffer, at the rate given where browsers know it.
function decode(bytes, rate) {
  return new OfflineAudioContext(1, 1, Math.max(8000, Math.min(96000, rate))).decodeAudioData(bytes);
}

class Player {
  static #context = null;
  static #current = null; // the one that sounds

  // root: the element with the controls. buffers: an AudioBuffer for each of its radio buttons, by value; the first is
  // the mixture. top: the highest frequency to show, Hz.
  constructor(root, buffers, top) {
    this.root = root;
    this.buffers = buffers;
    this.choices = [...root.querySelectorAll("input[type=radio]")].filter((input) => input.value in buffers);
    this.duration = Math.max(...Object.values(buffers).map((buffer) => buffer.duration));
    this.top = top;
    this.output = null;
    this.gains = {};
    this.nodes = null; // while playing
    this.offset = 0; // seconds: where it stands, or stood when it began to play
    this.decibels = {};
    this.frame = null; // asked for, to paint in
    this.following = null; // asked for, to show the position in
    this.listening = new AbortController();
    const on = (target, type, act) => target.addEventListener(type, act, { signal: this.listening.signal });

    this.seeker = root.querySelector(".seek");
    this.seeker.max = this.duration;
    this.view = root.querySelector(".view");
    on(root.querySelector(".play"), "click", () => this.toggle());
    on(this.seeker, "input", () => this.seek(Number(this.seeker.value)));
    on(root, "keydown", (event) => this.#key(event));
    for (const input of this.choices) on(input, "change", () => this.choose(input.value));
    on(this.view, "pointerdown", (event) => {
      this.view.setPointerCapture(event.pointerId);
      this.#point(event);
    });
    on(this.view, "pointermove", (event) => event.buttons && this.#point(event));
    on(document, "theme", () => this.paint());
    this.resized = new ResizeObserver(() => this.draw());
    this.resized.observe(this.view);

    this.#ticks();
    this.choose((this.choices.find((input) => input.checked) ?? this.choices[0]).value);
    this.#moved();
    root.player = this;
    root.classList.add("ready");
  }

  get playing() {
    return this.nodes !== null;
  }

  get position() {
    if (!this.playing) return this.offset;
    return Math.min(this.duration, this.offset + Math.max(0, Player.#context.currentTime - this.begun));
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

  // Hear and see another source, at the same place.
  choose(name) {
    this.source = name;
    for (const input of this.choices) input.checked = input.value === name;
    for (const [other, gain] of Object.entries(this.gains)) {
      const now = Player.#context.currentTime;
      gain.gain.cancelScheduledValues(now);
      gain.gain.setValueAtTime(gain.gain.value, now);
      gain.gain.linearRampToValueAtTime(other === name ? 1 : 0, now + FADE);
    }
    const heard = this.#chosen.getAttribute("aria-label");
    for (const label of this.root.querySelectorAll(".chosen")) label.textContent = heard;
    this.draw();
  }

  remove() {
    this.pause();
    this.listening.abort();
    this.resized.disconnect();
    this.root.classList.remove("ready");
    this.paint = () => {};
  }

  // Paint when the screen is next refreshed, once, however often it is asked for.
  draw() {
    this.frame ??= requestAnimationFrame(() => this.paint());
  }

  paint() {
    this.frame = null;
    const wave = fit(this.view.querySelector(".wave"));
    const spectrum = fit(this.view.querySelector(".spectrum"));
    if (!wave || !spectrum) return; // not on the screen
    wave.dataset.voice = this.#chosen.dataset.voice;
    drawWave(wave, this.buffers[this.source].getChannelData(0), this.#peak(), getComputedStyle(wave).color);
    if (this.width !== spectrum.width) this.decibels = {};
    this.width = spectrum.width;
    const first = this.#spectrogram(Object.keys(this.buffers)[0]);
    drawSpectrogram(spectrum, this.#spectrogram(this.source), first.loudest, SCALES[Theme.name]);
  }

  #spectrogram(name) {
    return (this.decibels[name] ??= spectrogram(this.buffers[name], this.width, this.top));
  }

  #peak() {
    this.loudest ??= Math.max(1e-3, ...Object.values(this.buffers).map((b) => extreme(b.getChannelData(0))));
    return this.loudest;
  }

  get #chosen() {
    return this.choices.find((input) => input.value === this.source);
  }

  #connect(context) {
    if (this.output) return;
    this.output = new GainNode(context);
    this.output.connect(context.destination);
    for (const name of Object.keys(this.buffers)) {
      this.gains[name] = new GainNode(context, { gain: name === this.source ? 1 : 0 });
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

  // One loop, however often it is asked for.
  #follow() {
    cancelAnimationFrame(this.following);
    if (!this.playing) return;
    this.#moved();
    this.following = requestAnimationFrame(() => this.#follow());
  }

  #moved() {
    const at = this.position;
    this.seeker.value = at;
    this.seeker.setAttribute("aria-valuetext", `${at.toFixed(1)} of ${this.duration.toFixed(1)} seconds`);
    this.root.querySelector(".clock").textContent = `${clock(at)} / ${clock(this.duration)}`;
    this.root.style.setProperty("--at", `${(100 * at) / this.duration}%`);
  }

  #point(event) {
    const box = this.view.getBoundingClientRect();
    this.seek(((event.clientX - box.left) / box.width) * this.duration);
  }

  #key(event) {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    const own = event.target.matches("button, a, [type=checkbox]"); // they have a use for the space bar themselves
    const choice = this.choices[Number(event.key) - 1];
    if (event.key === " " && !own) this.toggle();
    else if (event.key.match(/^[1-9]$/) && choice) {
      this.choose(choice.value);
      if (event.target.matches("[type=radio]")) choice.focus();
    } else if (event.key === "," || event.key === ".") this.seek(this.position + (event.key === "," ? -1 : 1));
    else return;
    event.preventDefault();
  }

  #ticks() {
    const axis = this.view.querySelector(".axis");
    const step = [0.5, 1, 2, 5, 10, 30, 60, 120, 300].find((seconds) => this.duration / seconds <= 9) ?? 600;
    axis.replaceChildren();
    for (let second = 0; second < this.duration - 0.3 * step; second += step) {
      const tick = axis.appendChild(document.createElement("span"));
      tick.textContent = second < 60 ? `${second}${second ? "" : " s"}` : clock(second).slice(0, -2);
      tick.style.left = `${(100 * second) / this.duration}%`;
    }
  }
}

function clock(seconds) {
  const tenths = Math.floor(10 * seconds + 1e-6);
  return `${Math.floor(tenths / 600)}:${String(Math.floor((tenths % 600) / 10)).padStart(2, "0")}.${tenths % 10}`;
}

function extreme(samples) {
  let most = 0;
  for (const sample of samples) most = Math.max(most, Math.abs(sample));
  return most;
}

// Give a canvas as many pixels as the screen has for it, 1600 at most; null where it is not shown.
function fit(canvas) {
  const scale = Math.min(devicePixelRatio || 1, 2);
  const width = Math.min(1600, Math.round(canvas.clientWidth * scale));
  const height = Math.round(canvas.clientHeight * scale);
  if (!width || !height) return null;
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  return canvas;
}

function drawWave(canvas, samples, peak, ink) {
  const { width, height } = canvas;
  const context = canvas.getContext("2d");
  context.clearRect(0, 0, width, height);
  context.fillStyle = ink;
  for (let x = 0; x < width; x++) {
    const end = Math.max(Math.floor(((x + 1) * samples.length) / width), Math.floor((x * samples.length) / width) + 1);
    let low = 0, high = 0;
    for (let n = Math.floor((x * samples.length) / width); n < end; n++) {
      low = Math.min(low, samples[n]);
      high = Math.max(high, samples[n]);
    }
    const top = (height / 2) * (1 - (0.94 * high) / peak), bottom = (height / 2) * (1 - (0.94 * low) / peak);
    context.fillRect(x, top - 0.5, 1, bottom - top + 1);
  }
}

// In-place Fourier transform of size 2^m, decimation in time.
function transform(size) {
  const bits = Math.log2(size);
  const turn = Array.from({ length: size / 2 }, (_, k) => {
    const angle = (-2 * Math.PI * k) / size;
    return [Math.cos(angle), Math.sin(angle)];
  });
  const swap = Uint32Array.from({ length: size }, (_, n) => {
    let reversed = 0;
    for (let b = 0; b < bits; b++) reversed |= ((n >> b) & 1) << (bits - 1 - b);
    return reversed;
  });
  return (re, im) => {
    for (let n = 0; n < size; n++) {
      if (swap[n] > n) {
        [re[n], re[swap[n]]] = [re[swap[n]], re[n]];
        [im[n], im[swap[n]]] = [im[swap[n]], im[n]];
      }
    }
    for (let half = 1; half < size; half *= 2) {
      for (let start = 0; start < size; start += 2 * half) {
        for (let k = 0; k < half; k++) {
          const [c, s] = turn[(k * size) / (2 * half)];
          const a = start + k, b = a + half;
          const x = re[b] * c - im[b] * s, y = re[b] * s + im[b] * c;
          re[b] = re[a] - x; im[b] = im[a] - y;
          re[a] += x; im[a] += y;
        }
      }
    }
  };
}

// Log-magnitude spectrogram, a column for each pixel: {decibels [columns * bins], bins, loudest}.
function spectrogram(buffer, columns, top) {
  const samples = buffer.getChannelData(0);
  const size = 2 ** Math.round(Math.log2(WINDOW * buffer.sampleRate));
  const bins = Math.min(size / 2, Math.ceil((top * size) / buffer.sampleRate));
  const hann = Float32Array.from({ length: size }, (_, n) => 0.5 - 0.5 * Math.cos((2 * Math.PI * n) / size));
  const turn = transform(size), re = new Float32Array(size), im = new Float32Array(size);
  const decibels = new Float32Array(columns * bins);
  let loudest = -Infinity;
  for (let x = 0; x < columns; x++) {
    const start = Math.round(((x + 0.5) * samples.length) / columns - size / 2);
    for (let n = 0; n < size; n++) re[n] = hann[n] * (samples[start + n] ?? 0);
    im.fill(0);
    turn(re, im);
    for (let k = 0; k < bins; k++) {
      const level = 10 * Math.log10(re[k] ** 2 + im[k] ** 2 + 1e-16);
      decibels[x * bins + k] = level;
      loudest = Math.max(loudest, level);
    }
  }
  return { decibels, bins, loudest };
}

function drawSpectrogram(canvas, { decibels, bins }, loudest, scale) {
  const columns = decibels.length / bins;
  const picture = new ImageData(columns, bins);
  const pixels = new Uint32Array(picture.data.buffer);
  const colours = palette(scale);
  for (let x = 0; x < columns; x++) {
    for (let k = 0; k < bins; k++) {
      const level = 255 * (1 + (decibels[x * bins + k] - loudest) / RANGE);
      pixels[(bins - 1 - k) * columns + x] = colours[Math.max(0, Math.min(255, Math.round(level)))];
    }
  }
  const small = Object.assign(document.createElement("canvas"), { width: columns, height: bins });
  small.getContext("2d").putImageData(picture, 0, 0);
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(small, 0, 0, canvas.width, canvas.height);
}

// 256 colours between those of `scale`, as the words of an ImageData (little endian, as all browsers run).
function palette(scale) {
  const anchors = scale.map((hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16)));
  return Uint32Array.from({ length: 256 }, (_, level) => {
    const place = (level / 255) * (anchors.length - 1), k = Math.min(anchors.length - 2, Math.floor(place));
    const [r, g, b] = anchors[k].map((from, c) => Math.round(from + (place - k) * (anchors[k + 1][c] - from)));
    return ((255 << 24) | (b << 16) | (g << 8) | r) >>> 0;
  });
}

Theme.begin();
