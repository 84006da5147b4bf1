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
  const { report, parts } = entry.result, buffers = {};
  forget(heard);
  heard = entry;
  try {
    for (const [name, part] of Object.entries(parts)) {
      buffers[name] = await decode(await part.arrayBuffer(), report.sample_rate);
    }
  } catch (error) {
    return complain(`The browser cannot play ${entry.name}: ${error.message}`);
  }
  if (heard !== entry) return; // another entry was chosen meanwhile
  root.querySelector("h2").textContent = entry.name;
  root.querySelector(".report").textContent = report.summary;
  root.querySelector(".work").textContent = report.work;
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

// The voices of an entry, [file name, Blob] each.
function voicesOf(entry) {
  const voices = Object.entries(entry.result.parts).slice(1); // after the mixture
  return voices.map(([source, part], k) => {
    const name = entry.names[source];
    return [`${stemOf(entry)}_${name ? fileName(name) : `spk${k + 1}`}.wav`, part];
  });
}

async function saveZip(entries, name) {
  try {
    save(await zip(entries.flatMap(voicesOf)), name);
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
    const k = Object.keys(heard.result.parts).indexOf(button.dataset.source) - 1;
    const [name, part] = voicesOf(heard)[k];
    save(part, name);
  });
}
root.querySelector("button.save-zip").addEventListener("click", () => {
  saveZip([heard], `${stemOf(heard)}.zip`);
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
