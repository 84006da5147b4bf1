// Downloads: single files, or several in an uncompressed zip archive.
"use strict";

const CRC = Uint32Array.from({ length: 256 }, (_, n) => {
  for (let bit = 0; bit < 8; bit++) n = n & 1 ? 0xedb88320 ^ (n >>> 1) : n >>> 1;
  return n >>> 0;
});
const LARGEST_ZIP = 2 ** 32 - 1; // bytes, without the ZIP64 extension

function crc32(bytes) {
  let crc = ~0;
  for (const byte of bytes) crc = CRC[(crc ^ byte) & 255] ^ (crc >>> 8);
  return ~crc >>> 0;
}

// Numbers, [bytes, value] each, in little-endian order.
function packed(...numbers) {
  const content = new DataView(new ArrayBuffer(numbers.reduce((sum, [size]) => sum + size, 0)));
  let at = 0;
  for (const [size, value] of numbers) {
    if (size === 2) content.setUint16(at, value, true);
    else content.setUint32(at, value, true);
    at += size;
  }
  return content;
}

// A zip archive of files, [name, Blob] each. Repeated names are numbered.
async function zip(files) {
  const pieces = [], entries = [], taken = new Set();
  let at = 0, listed = 0;
  for (const [wanted, blob] of files) {
    const name = new TextEncoder().encode(unused(wanted, taken));
    const crc = crc32(new Uint8Array(await blob.arrayBuffer()));
    // Version 2.0, names in UTF-8, stored, 1 January 1980; no extra field.
    const facts = [
      [2, 20], [2, 0x800], [2, 0], [2, 0], [2, 33], [4, crc], [4, blob.size], [4, blob.size],
      [2, name.length], [2, 0],
    ];
    pieces.push(packed([4, 0x04034b50], ...facts), name, blob);
    const listing = [[4, 0x02014b50], [2, 20], ...facts, [2, 0], [2, 0], [2, 0], [4, 0], [4, at]];
    entries.push(packed(...listing), name);
    at += 30 + name.length + blob.size;
    listed += 46 + name.length;
    if (at + listed > LARGEST_ZIP) {
      throw new Error("Too large for one zip; save the voices one by one");
    }
  }
  const n = entries.length / 2;
  const end = packed([4, 0x06054b50], [2, 0], [2, 0], [2, n], [2, n], [4, listed], [4, at], [2, 0]);
  return new Blob([...pieces, ...entries, end], { type: "application/zip" });
}

function unused(wanted, taken) {
  const dot = wanted.lastIndexOf(".");
  let name = wanted;
  for (let k = 2; taken.has(name); k++) name = `${wanted.slice(0, dot)} (${k})${wanted.slice(dot)}`;
  taken.add(name);
  return name;
}

// Turn text into a valid part of a file name on any system.
function fileName(text) {
  const safe = text.replace(/[\u0000-\u001f\u007f\\/:*?"<>|]/g, "_").replace(/^\.+/, "");
  return safe.trim() || "voice";
}

function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000); // once the download has started
}
