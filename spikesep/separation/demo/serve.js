// The page to try a model: a file goes to the program that served the page, the voices come back, and stay here alone.
"use strict";

const drop = document.querySelector(".drop"), pick = document.querySelector(".pick");
const record = document.querySelector(".record"), state = document.querySelector(".state");
const progress = document.querySelector(".progress"), trouble = document.querySelector(".trouble");
const root = document.querySelector(".player");
let busy = false, recording = false, recorder = null, addresses = [];

function complain(text) {
  trouble.textContent = text;
  trouble.hidden = !text;
}

function tell(text, share = null) {
  state.textContent = text;
  progress.hidden = share === null;
  if (share !== null) progress.value = share;
}

// Separate a recording: a Blob with a name.
async function separate(blob, name) {
  if (busy) return;
  if (recording) return complain("Stop the recording first");
  busy = true;
  complain("");
  clear();
  drop.classList.add("busy");
  pick.disabled = record.disabled = true;
  try {
    const size = blob.size / 1e6, most = Number(drop.dataset.megabytes);
    if (size > most) throw new Error(`${name} has ${size.toFixed(1)} MB; ${most} are taken at most`);
    tell(`Separating ${name} …`, 0);
    const watch = setInterval(async () => {
      const answer = await fetch("/progress").catch(() => null);
      if (answer?.ok && busy) progress.value = (await answer.json()).share;
    }, 300);
    const form = await send(blob, name).finally(() => clearInterval(watch));
    await show(form, name);
    tell("");
  } catch (error) {
    tell("");
    complain(error.message);
  } finally {
    busy = false;
    drop.classList.remove("busy");
    pick.disabled = record.disabled = false;
    pick.value = "";
  }
}

async function send(blob, name) {
  const headers = { "Content-Type": "application/octet-stream", "X-File-Name": encodeURIComponent(name) };
  const answer = await fetch("/separate", { method: "POST", headers, body: blob }).catch(() => {
    throw new Error("spikesep-serve does not answer any more; start it again");
  });
  if (answer.ok) return answer.formData();
  throw new Error((await answer.json().catch(() => ({}))).error ?? `spikesep-serve answers ${answer.status}`);
}

function clear() {
  root.player?.remove();
  root.player = null;
  root.hidden = true;
  for (const address of addresses) URL.revokeObjectURL(address);
  addresses = [];
}

async function show(form, name) {
  const report = JSON.parse(await form.get("report").text()), buffers = {};
  const stem = name.replace(/\.[^.]*$/, "");
  for (const [key, file] of form) {
    if (key === "report") continue;
    buffers[key] = await decode(await file.arrayBuffer(), report.sample_rate);
    const link = root.querySelector(`.save[data-source=${key}]`);
    if (!link) continue;
    link.href = URL.createObjectURL(file);
    link.download = `${stem}_spk${key.slice(5)}.wav`;
    addresses.push(link.href);
  }
  root.querySelector("h2").textContent = name;
  root.querySelector(".report").textContent = report.summary;
  root.hidden = false;
  new Player(root, buffers, Math.min(report.sample_rate / 2, 1000 * Number(root.dataset.khz)));
  root.querySelector(".play").focus({ preventScroll: true });
  root.scrollIntoView({ block: "nearest" });
}

for (const type of ["dragenter", "dragover", "dragleave", "drop"]) {
  addEventListener(type, (event) => {
    event.preventDefault();
    drop.classList.toggle("over", !busy && !recording && (type === "dragenter" || type === "dragover"));
  });
}
addEventListener("drop", (event) => {
  const file = event.dataTransfer?.files[0];
  if (file) separate(file, file.name);
});
pick.addEventListener("change", () => pick.files[0] && separate(pick.files[0], pick.files[0].name));

// The browser's own format of recording is decoded by the browser, and sent as wav.
async function startRecording() {
  const wanted = { echoCancellation: false, noiseSuppression: false };
  const stream = await navigator.mediaDevices.getUserMedia({ audio: wanted });
  const pieces = [], most = Number(drop.dataset.seconds), begun = performance.now();
  const own = (recorder = new MediaRecorder(stream));
  const watch = setInterval(() => {
    const seconds = (performance.now() - begun) / 1000;
    tell(`Recording: ${clock(seconds)}`);
    if (seconds > most - 1 && own.state === "recording") own.stop();
  }, 100);
  own.ondataavailable = (event) => pieces.push(event.data);
  own.onstop = async () => {
    clearInterval(watch);
    for (const track of stream.getTracks()) track.stop();
    recorder = null;
    record.textContent = "Record";
    tell("");
    try {
      const buffer = await decode(await new Blob(pieces).arrayBuffer(), 16000);
      recording = false;
      await separate(wav(buffer.getChannelData(0), buffer.sampleRate), "recording.wav");
    } catch {
      complain("The recording is too short; record again");
    }
    recording = pick.disabled = false;
  };
  own.start();
  record.textContent = "Stop and separate";
}

record.addEventListener("click", () => {
  if (recorder) return recorder.stop();
  if (recording) return; // the browser still asks for leave
  complain("");
  recording = pick.disabled = true;
  startRecording().catch((error) => {
    recording = pick.disabled = false;
    complain(`No recording: ${error.message}`);
  });
});
record.hidden = !(navigator.mediaDevices?.getUserMedia && window.MediaRecorder);

// A wav file of one channel, 16 bits.
function wav(samples, rate) {
  const data = new DataView(new ArrayBuffer(44 + 2 * samples.length));
  const text = (at, letters) => [...letters].forEach((letter, k) => data.setUint8(at + k, letter.charCodeAt(0)));
  const word = (at, number) => data.setUint32(at, number, true);
  const half = (at, number) => data.setUint16(at, number, true);
  text(0, "RIFF"); word(4, 36 + 2 * samples.length); text(8, "WAVEfmt ");
  word(16, 16); half(20, 1); half(22, 1); word(24, rate); word(28, 2 * rate); half(32, 2); half(34, 16);
  text(36, "data"); word(40, 2 * samples.length);
  samples.forEach((sample, n) => half(44 + 2 * n, Math.round(32767 * Math.max(-1, Math.min(1, sample)))));
  return new Blob([data], { type: "audio/wav" });
}
