// The page of spikesep-serve: recordings are dropped, chosen or recorded; their voices are played
// and saved. They exist only in this page.
"use strict";

const root = document.querySelector(".player"), pick = document.querySelector(".pick");
let heard = null; // the entry in the player

function complain(text) {
  const trouble = document.querySelector(".trouble[role=alert]");
  trouble.textContent = text;
  trouble.hidden = !text;
}

function announce(text) {
  document.querySelector(".said").textContent = text;
}

function add(files) {
  complain(files.length ? "" : "What was dropped is not a file; save it as a file and drop that");
  for (const file of files) Queue.add(file, file.name);
}

// Show the voices of a finished entry in the player.
async function listen(entry) {
  const { report, parts } = entry.result, buffers = {}, shown = ["mixture", ...shownVoices(entry)];
  forget(heard);
  heard = entry;
  try {
    for (const [name, part] of Object.entries(parts)) {
      if (shown.includes(name)) buffers[name] = await decode(await part.arrayBuffer(), report.sample_rate);
    }
  } catch (error) {
    return complain(`The browser cannot play ${entry.name}: ${error.message}`);
  }
  if (heard !== entry) return; // another entry was chosen meanwhile
  describe(entry);
  showVoices(entry, shown);
  root.hidden = false;
  const top = Math.min(report.sample_rate / 2, 1000 * Number(root.dataset.khz));
  const player = new Player(root, buffers, top);
  for (const input of root.querySelectorAll(".rename input")) {
    input.value = entry.names[input.dataset.source] || input.defaultValue;
    player.call(input.dataset.source, input.value);
  }
  root.querySelector(".play").focus({ preventScroll: true });
  root.scrollIntoView({ block: "nearest" });
}

function describe({ name, result: { report } }) {
  root.querySelector("h2").textContent = name;
  root.querySelector(".report").textContent = report.summary;
  root.querySelector(".work").textContent = report.work;
  root.querySelector(".speakers .note").hidden = report.follows;
}

// The voices in which somebody is heard, at least one; all if the user wants.
function shownVoices(entry) {
  const { report: { heard: numbers }, parts } = entry.result;
  if (entry.all) return Object.keys(parts).slice(1); // after the mixture
  return (numbers.length ? numbers : [1]).map((number) => `voice${number}`);
}

// Show the controls and the turns of some sources and hide those of the others.
function showVoices(entry, shown) {
  const alone = shown.length < 3; // the mixture and one voice
  for (const voice of root.querySelectorAll(".choices .voice")) {
    const { value } = voice.querySelector("[type=radio]");
    voice.hidden = value === BOTH ? alone : !shown.includes(value);
    const volume = voice.querySelector(".volume"); // of use together with other voices only
    if (volume) volume.hidden = alone;
  }
  for (const lane of root.querySelectorAll(".lane")) {
    lane.hidden = !shown.includes(lane.dataset.source);
    fillLane(lane, turnsOfVoice(entry, lane.dataset.source));
  }
  const radios = [...root.querySelectorAll(".choices .voice:not([hidden]) [type=radio]")];
  if (!radios.some((radio) => radio.checked)) radios[1].checked = true;
  const more = root.querySelector("button.more"), n = Object.keys(entry.result.parts).length;
  const hidden = n - 1 - entry.result.report.heard.length;
  more.hidden = !hidden || n < 3;
  const silent = `${hidden} voice${hidden > 1 ? "s" : ""} in which nobody is heard`;
  more.textContent = `${entry.all ? "Hide" : "Show"} ${silent}`;
}

function turnsOfVoice(entry, source) {
  return entry.result.report.turns.filter(({ speaker }) => source === `voice${speaker}`);
}

// Remove an entry from the player, if it is shown there.
function forget(entry) {
  if (!entry || entry !== heard) return;
  heard = null;
  root.player?.remove();
  root.player = null;
  root.hidden = true;
}

function stemOf(entry) {
  return fileName(entry.name.replace(/\.[^.]*$/, ""));
}

// Name of a voice in file names: as the user calls it, or its number.
function nameOf(entry, source) {
  const name = entry.names[source];
  return name ? fileName(name) : source.replace("voice", "spk");
}

// A file of one voice of an entry, [file name, Blob].
function voiceOf(entry, source) {
  return [`${stemOf(entry)}_${nameOf(entry, source)}.wav`, entry.result.parts[source]];
}

// Who speaks when in an entry, [file name, Blob].
function turnsOfEntry(entry) {
  const named = shownVoices(entry).flatMap((source) => turnsOfVoice(entry, source)
    .map((turn) => ({ ...turn, speaker: nameOf(entry, source) })));
  named.sort((a, b) => a.start - b.start);
  return [`${stemOf(entry)}.rttm`, rttm(stemOf(entry), named)];
}

function filesOf(entry) {
  return [...shownVoices(entry).map((source) => voiceOf(entry, source)), turnsOfEntry(entry)];
}

async function saveZip(entries, name) {
  try {
    save(await zip(entries.flatMap(filesOf)), name);
  } catch (error) {
    complain(error.message);
  }
}

for (const input of root.querySelectorAll(".rename input")) {
  input.addEventListener("input", () => {
    const name = input.value.trim();
    heard.names[input.dataset.source] = name === input.defaultValue ? "" : name;
    root.player.call(input.dataset.source, name || input.defaultValue);
  });
}
for (const button of root.querySelectorAll("button.save")) {
  button.addEventListener("click", () => {
    const [name, part] = voiceOf(heard, button.dataset.source);
    save(part, name);
  });
}
root.querySelector("button.save-zip").addEventListener("click", () => {
  saveZip([heard], `${stemOf(heard)}.zip`);
});
root.querySelector("button.save-turns").addEventListener("click", () => {
  const [name, turns] = turnsOfEntry(heard);
  save(turns, name);
});
root.querySelector("button.more").addEventListener("click", async () => {
  heard.all = !heard.all;
  await listen(heard);
  root.querySelector("button.more").focus({ preventScroll: true });
});
document.querySelector("button.save-all").addEventListener("click", () => {
  saveZip(Queue.done, "voices.zip");
});

for (const type of ["dragenter", "dragover", "dragleave", "drop"]) {
  addEventListener(type, (event) => {
    event.preventDefault();
    const over = type === "dragenter" || type === "dragover";
    document.querySelector(".drop").classList.toggle("over", over);
  });
}
addEventListener("drop", (event) => add([...(event.dataTransfer?.files ?? [])]));
pick.addEventListener("change", () => {
  add([...pick.files]);
  pick.value = "";
});
