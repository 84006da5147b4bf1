// Waveforms and spectrograms, computed from samples at the resolution of the screen.
"use strict";

const RANGE = 70; // dB shown below the loudest point of the first source
const WINDOW = 0.032; // seconds
const BLOCK = 256; // samples whose extremes are kept, so that minutes are drawn fast
const SCALES = {
  light: ["#fdfdfe", "#e3e9f3", "#b4c6e2", "#7698c9", "#40659f", "#213c6b", "#0d1730"],
  dark: ["#0d0f14", "#1c1838", "#49206b", "#8e2f6e", "#d3544d", "#f59d54", "#fdf0c0"],
};

// Peak and root mean square of samples.
function levels(samples) {
  let peak = 0, energy = 0;
  for (const sample of samples) {
    peak = Math.max(peak, Math.abs(sample));
    energy += sample * sample;
  }
  return { peak, rms: Math.sqrt(energy / Math.max(1, samples.length)) };
}

// Lowest and highest of each block of samples, and 0: {low, high}.
function extremes(samples) {
  const n = Math.ceil(samples.length / BLOCK);
  const low = new Float32Array(n), high = new Float32Array(n);
  for (let k = 0; k < samples.length; k++) {
    const block = Math.floor(k / BLOCK), sample = samples[k];
    if (sample < low[block]) low[block] = sample;
    else if (sample > high[block]) high[block] = sample;
  }
  return { low, high };
}

// Mix sources, [samples, gain] each.
function blend(sources) {
  const sum = new Float32Array(Math.max(...sources.map(([samples]) => samples.length)));
  for (const [samples, gain] of sources) {
    for (let n = 0; n < samples.length; n++) sum[n] += gain * samples[n];
  }
  return sum;
}

// Resize a canvas to the pixels of the screen, at most 1600 wide; null if it is not shown.
function fit(canvas) {
  const scale = Math.min(devicePixelRatio || 1, 2);
  const width = Math.min(1600, Math.round(canvas.clientWidth * scale));
  const height = Math.round(canvas.clientHeight * scale);
  if (!width || !height) return null;
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  return canvas;
}

// Draw the waveform of the samples from..to, which may be fractional. Columns of many samples are
// drawn from their blocks, see `extremes`.
function drawWave(canvas, samples, blocks, from, to, peak, ink) {
  const { width, height } = canvas, context = canvas.getContext("2d");
  const by = (to - from) / width > 4 * BLOCK ? BLOCK : 1;
  const { low, high } = by > 1 ? blocks : { low: samples, high: samples };
  const each = (to - from) / width / by, first = from / by;
  context.clearRect(0, 0, width, height);
  context.fillStyle = ink;
  for (let x = 0; x < width; x++) {
    const begin = Math.min(low.length - 1, Math.floor(first + x * each));
    const end = Math.min(low.length, Math.max(begin + 1, Math.floor(first + (x + 1) * each)));
    let lowest = 0, highest = 0;
    for (let n = begin; n < end; n++) {
      lowest = Math.min(lowest, low[n]);
      highest = Math.max(highest, high[n]);
    }
    const top = (height / 2) * (1 - (0.94 * highest) / peak);
    const bottom = (height / 2) * (1 - (0.94 * lowest) / peak);
    context.fillRect(x, top - 0.5, 1, bottom - top + 1);
  }
}

// Returns an in-place FFT of size 2^m, decimation in time.
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

// Log-magnitude spectrogram of the samples from..to, up to `top` Hz, one column per pixel:
// {decibels [columns * bins], bins, loudest}.
function spectrogram(samples, rate, columns, top, from = 0, to = samples.length) {
  const size = 2 ** Math.round(Math.log2(WINDOW * rate));
  const bins = Math.min(size / 2, Math.ceil((top * size) / rate));
  const hann = new Float32Array(size).map((_, n) => 0.5 - 0.5 * Math.cos((2 * Math.PI * n) / size));
  const turn = transform(size), re = new Float32Array(size), im = new Float32Array(size);
  const decibels = new Float32Array(columns * bins);
  let loudest = -Infinity;
  for (let x = 0; x < columns; x++) {
    const start = Math.round(from + ((x + 0.5) * (to - from)) / columns - size / 2);
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

// Colour a spectrogram: a canvas of one pixel for each column and bin.
function paintSpectrogram({ decibels, bins }, loudest, scale) {
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
  const painted = Object.assign(document.createElement("canvas"), { width: columns, height: bins });
  painted.getContext("2d").putImageData(picture, 0, 0);
  return painted;
}

// Draw a painted spectrogram so that its columns cover `start` to `stop`, in shares of the width.
function drawSpectrogram(canvas, painted, start = 0, stop = 1) {
  const { width, height } = canvas, context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.clearRect(0, 0, width, height);
  context.drawImage(painted, start * width, 0, (stop - start) * width, height);
}

// Interpolate 256 colours from `scale`, as 32-bit words of an ImageData (all browsers are
// little-endian).
function palette(scale) {
  const anchors = scale.map((hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16)));
  return Uint32Array.from({ length: 256 }, (_, level) => {
    const position = (level / 255) * (anchors.length - 1);
    const k = Math.min(anchors.length - 2, Math.floor(position)), next = anchors[k + 1];
    const between = (from, c) => Math.round(from + (position - k) * (next[c] - from));
    const [r, g, b] = anchors[k].map(between);
    return ((255 << 24) | (b << 16) | (g << 8) | r) >>> 0;
  });
}

function inDecibels(magnitude) {
  return (20 * Math.log10(magnitude)).toFixed(1).replace("-", "−");
}

function clock(seconds) {
  const tenths = Math.floor(10 * seconds + 1e-6);
  const whole = String(Math.floor((tenths % 600) / 10)).padStart(2, "0");
  return `${Math.floor(tenths / 600)}:${whole}.${tenths % 10}`;
}
