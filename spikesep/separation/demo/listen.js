// The listening page: the sounds lie in its audio elements, which a browser without scripts plays as they are.
"use strict";

function bytesOf(address) {
  return Uint8Array.from(atob(address.slice(address.indexOf(",") + 1)), (letter) => letter.charCodeAt(0)).buffer;
}

async function begin(root) {
  const rate = Number(root.dataset.rate), buffers = {}, sounds = [...root.querySelectorAll("audio")];
  for (const audio of sounds) buffers[audio.dataset.source] = await decode(bytesOf(audio.src), rate);
  for (const audio of sounds) audio.remove();
  new Player(root, buffers, rate / 2);
}

(async () => {
  for (const root of document.querySelectorAll(".player")) await begin(root);
})().catch(() => document.documentElement.classList.remove("script")); // the browser's own players remain
