// Recording from the microphone. The browser decodes its own format; the queue receives a WAV file.
"use strict";

const Recorder = {
  button: document.querySelector(".record"),
  clock: document.querySelector(".recorded"),
  recorder: null,
  asking: false, // waiting for permission
  count: 0,

  async toggle() {
    if (this.recorder) return this.recorder.stop();
    if (this.asking) return;
    complain("");
    this.asking = true;
    await this.begin().catch((error) => complain(`Cannot record: ${error.message}`));
    this.asking = false;
  },

  async begin() {
    const wanted = { echoCancellation: false, noiseSuppression: false };
    const stream = await navigator.mediaDevices.getUserMedia({ audio: wanted });
    const pieces = [], most = Number(document.querySelector(".drop").dataset.seconds);
    const begun = performance.now(), recorder = (this.recorder = new MediaRecorder(stream));
    const watch = setInterval(() => {
      const seconds = (performance.now() - begun) / 1000;
      this.clock.textContent = `Recording: ${clock(seconds)}`;
      if (seconds < most - 1 || recorder.state !== "recording") return;
      recorder.stop();
      const more = "start spikesep-serve with a larger --max-seconds for more";
      complain(`Recording stopped at ${most} s; ${more}`);
    }, 100);
    recorder.ondataavailable = (event) => pieces.push(event.data);
    recorder.onstop = () => {
      clearInterval(watch);
      for (const track of stream.getTracks()) track.stop();
      this.show(null);
      this.keep(pieces).catch(() => complain("The recording is too short; record again"));
    };
    recorder.start();
    this.show(recorder);
  },

  show(recorder) {
    this.recorder = recorder;
    this.button.textContent = recorder ? "Stop and separate" : "Record";
    this.clock.hidden = !recorder;
  },

  async keep(pieces) {
    const buffer = await decode(await new Blob(pieces).arrayBuffer(), 16000);
    const number = ++this.count > 1 ? ` ${this.count}` : "";
    Queue.add(wav(buffer.getChannelData(0), buffer.sampleRate), `recording${number}.wav`);
  },
};

// Encode samples as a 16-bit mono WAV file.
function wav(samples, rate) {
  const size = 2 * samples.length, pcm = new DataView(new ArrayBuffer(size));
  samples.forEach((sample, n) => {
    pcm.setInt16(2 * n, Math.round(32767 * Math.max(-1, Math.min(1, sample))), true);
  });
  const form = packed([4, 16], [2, 1], [2, 1], [4, rate], [4, 2 * rate], [2, 2], [2, 16]);
  const pieces = ["RIFF", packed([4, 36 + size]), "WAVEfmt ", form, "data", packed([4, size]), pcm];
  return new Blob(pieces, { type: "audio/wav" });
}

Recorder.button.addEventListener("click", () => Recorder.toggle());
Recorder.button.hidden = !(navigator.mediaDevices?.getUserMedia && window.MediaRecorder);
