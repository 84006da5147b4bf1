// Paints waveform, spectrogram and overview of a player, as of the part that its view shows.
"use strict";

const SETTLED = 100; // milliseconds after which a spectrogram that was stretched is computed anew

class Painter {
  // root: the player. view: its view. rate: sample rate in Hz. samples: returns those of a source.
  // first: the mixture, from which the range of colours follows. top: the highest frequency shown,
  // in Hz.
  constructor(root, view, { rate, samples, first, top }) {
    Object.assign(this, { root, view, rate, samples, first, top });
    this.frame = null; // requested for painting
    this.blocks = {}; // extremes of blocks of samples, by source
    this.decibels = {}; // spectrograms of the part shown, by source
    this.painted = null; // the spectrogram drawn last
  }

  // Set the largest magnitude; a silent mixture has no loudest point.
  scale(peak, silent) {
    this.peak = peak;
    this.loudest = silent ? Infinity : null;
  }

  // Forget a source whose samples have changed.
  forget(source) {
    delete this.decibels[source];
    delete this.blocks[source];
    if (this.painted?.source === source) this.painted = null;
  }

  remove() {
    cancelAnimationFrame(this.frame);
    clearTimeout(this.settling);
    this.paint = this.draw = () => {};
  }

  // Paint once at the next screen refresh, however often it is requested.
  draw(source, voice) {
    Object.assign(this, { source, voice });
    this.frame ??= requestAnimationFrame(() => this.paint());
  }

  paint() {
    this.frame = null;
    const [wave, spectrum] = ["wave", "spectrum"].map((name) => fit(this.#canvas(name)));
    if (!wave || !spectrum) return; // not visible
    wave.dataset.voice = this.voice;
    this.#paintWave(wave, this.source, ...this.#range);
    this.#paintOverview(fit(this.#canvas("all")));
    this.#paintSpectrum(spectrum);
  }

  #paintOverview(canvas) {
    const drawn = canvas && [canvas.width, canvas.height, Theme.name].join();
    if (!canvas || this.overview === drawn) return;
    this.overview = drawn;
    this.#paintWave(canvas, this.first, 0, this.view.duration * this.rate);
  }

  #canvas(name) {
    return this.root.querySelector(`canvas.${name}`);
  }

  // Samples shown: from, to.
  get #range() {
    const { left, span } = this.view;
    return [left * this.rate, (left + span) * this.rate];
  }

  #paintWave(canvas, source, from, to) {
    const samples = this.samples(source), blocks = (this.blocks[source] ??= extremes(samples));
    drawWave(canvas, samples, blocks, from, to, this.peak, getComputedStyle(canvas).color);
  }

  // While the view moves, the last picture is stretched, which is fast.
  #paintSpectrum(canvas, settled = false) {
    const { source, painted, view: { left, span } } = this, { width } = canvas, theme = Theme.name;
    clearTimeout(this.settling);
    const isSame = painted?.source === source && painted.theme === theme && painted.width === width;
    if (isSame && !settled && (painted.left !== left || painted.span !== span)) {
      const place = (seconds) => (seconds - left) / span;
      drawSpectrogram(canvas, painted.picture, place(painted.left), place(painted.left + painted.span));
      this.settling = setTimeout(() => this.#paintSpectrum(canvas, true), SETTLED);
      return;
    }
    const shown = [width, left, span].join();
    if (this.shown !== shown) this.decibels = {};
    this.shown = shown;
    this.decibels[source] ??= this.#spectrogram(source, width, this.#range);
    this.loudest ??= this.#spectrogram(this.first, width).loudest;
    const picture = paintSpectrogram(this.decibels[source], this.loudest, SCALES[theme]);
    this.painted = { picture, source, theme, width, left, span };
    drawSpectrogram(canvas, picture);
  }

  #spectrogram(source, width, range = []) {
    return spectrogram(this.samples(source), this.rate, width, this.top, ...range);
  }
}
