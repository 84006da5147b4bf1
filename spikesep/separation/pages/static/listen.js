// The listening page. Its sounds are in audio elements, which browsers without scripts can play.
"use strict";

function bytesOf(address) {
  const content = atob(address.slice(address.indexOf(",") + 1));
  return Uint8Array.from(content, (letter) => letter.charCodeAt(0));
}

async function begin(root) {
  const rate = Number(root.dataset.rate), buffers = {};
  const sounds = [...root.querySelectorAll("audio")].map((audio) => [audio.dataset.source, audio]);
  for (const [name, audio] of sounds) buffers[name] = await decode(bytesOf(audio.src).buffer, rate);
  for (const [, audio] of sounds) audio.remove();
  new Player(root, buffers, rate / 2);
  const button = root.querySelector(".save-zip");
  button.addEventListener("click", async () => {
    const files = sounds.map(([name, { src }]) => {
      const kind = src.startsWith("data:audio/mpeg") ? "mp3" : "flac";
      return [`${name}.${kind}`, new Blob([bytesOf(src)])];
    });
    save(await zip([...files, ...turnFiles(root, button.dataset.name)]), `${fileName(button.dataset.name)}.zip`);
  });
}

// Turns of an example, [file name, Blob] each: `reference.rttm` and `found.rttm`.
function turnFiles(root, name) {
  const turns = [...root.querySelectorAll(".lane")].flatMap(turnsOf);
  turns.sort((a, b) => a.start - b.start);
  return ["reference", "found"].flatMap((kind) => {
    const own = turns.filter((turn) => turn.kind === kind);
    const named = own.map((turn) => ({ ...turn, speaker: turn.source.split("-")[0] }));
    return own.length ? [[`${kind}.rttm`, rttm(name, named)]] : [];
  });
}

(async () => {
  for (const root of document.querySelectorAll(".player")) await begin(root);
})().catch(() => {
  document.documentElement.classList.remove("script"); // the browser's own players remain
});
