// @ts-check
/** Zip files of maps for a job: stored as they are, since PNG files are packed already. */

import { crc32 } from "./png.js";

const LOCAL = 0x04034b50, CENTRAL = 0x02014b50, END = 0x06054b50;
const VERSION = 20, UTF8 = 0x800, FIRST_DAY = 0x21;

/** @param {Map<string, Uint8Array>} files  name -> content @returns {Blob} */
export function zip(files) {
  /** @type {Uint8Array[]} */
  const parts = [], index = [];
  let at = 0;
  for (const [name, data] of files) {
    const encoded = new TextEncoder().encode(name);
    const sizes = [crc32(data), data.length, data.length];
    const local = record(LOCAL, [VERSION, UTF8, 0, 0, FIRST_DAY], sizes, [encoded.length, 0]);
    index.push(
      record(CENTRAL, [VERSION, VERSION, UTF8, 0, 0, FIRST_DAY], sizes, [encoded.length, 0, 0, 0, 0], [0, at]),
      encoded,
    );
    parts.push(local, encoded, data);
    at += local.length + encoded.length + data.length;
  }
  const length = index.reduce((sum, each) => sum + each.length, 0);
  const end = record(END, [0, 0, files.size, files.size], [length, at], [0]);
  return new Blob(/** @type {BlobPart[]} */ ([...parts, ...index, end]), { type: "application/zip" });
}

/**
 * A record of the format: its signature, then groups of 16 and 32 bits in turn.
 * @param {number} signature
 * @param {number[][]} groups
 */
function record(signature, ...groups) {
  const length = groups.reduce((sum, group, i) => sum + group.length * (i % 2 ? 4 : 2), 4);
  const bytes = new Uint8Array(length);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, signature, true);
  let at = 4;
  groups.forEach((group, i) => {
    for (const value of group) {
      if (i % 2) view.setUint32(at, value, true);
      else view.setUint16(at, value, true);
      at += i % 2 ? 4 : 2;
    }
  });
  return bytes;
}
