// @ts-check
/**
 * PNG files of whole numbers, bit for bit: a canvas element would multiply, convert and smooth them.
 *
 * Written are grey maps of 8 and 16 bits; read are grey, palette and colour files of 8 and 16 bits
 * without interlacing.
 */

const SIGNATURE = [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a];
const GREY = 0, RGB = 2, PALETTE = 3, GREY_ALPHA = 4, RGBA = 6;
const SAMPLES = new Map([[GREY, 1], [RGB, 3], [PALETTE, 1], [GREY_ALPHA, 2], [RGBA, 4]]);
const MOST_PIXELS = 1 << 25;

/** A file that is no PNG of a kind that is read here; the message is for people. */
export class PngError extends Error {}

/**
 * @typedef {object} Decoded
 * @property {number} width
 * @property {number} height
 * @property {boolean} coloured  the values are packed colours, `red << 16 | green << 8 | blue`
 * @property {boolean} palette   the file has a palette, whose indices are `values`
 * @property {Int32Array} values  one for each pixel: a grey level, an index, or a packed colour
 * @property {Int32Array} colours  the packed colour of each pixel, where the file has colours
 */

/**
 * Encode a map of one value a pixel, of 8 bits for a Uint8Array and else of 16.
 * @param {Uint8Array | Uint16Array} values  [height * width]
 * @param {number} width
 * @param {number} height
 * @returns {Promise<Uint8Array>}
 */
export async function encode(values, width, height) {
  const bytes = values instanceof Uint8Array ? 1 : 2;
  const stride = width * bytes + 1;
  const rows = new Uint8Array(height * stride);
  for (let y = 0; y < height; y++) {
    const start = y * stride;
    rows[start] = 2; // Filter "up": most rows of a label map are like the one above.
    for (let x = 0; x < width; x++) {
      const value = values[y * width + x], above = y ? values[(y - 1) * width + x] : 0;
      if (bytes === 1) {
        rows[start + 1 + x] = value - above;
      } else {
        rows[start + 1 + 2 * x] = (value >> 8) - (above >> 8);
        rows[start + 2 + 2 * x] = (value & 255) - (above & 255);
      }
    }
  }
  const header = new Uint8Array(13);
  const view = new DataView(header.buffer);
  view.setUint32(0, width);
  view.setUint32(4, height);
  header.set([8 * bytes, GREY, 0, 0, 0], 8);
  const packed = await through(new CompressionStream("deflate"), rows);
  const parts = [chunk("IHDR", header), chunk("IDAT", packed), chunk("IEND", new Uint8Array())];
  return join([Uint8Array.from(SIGNATURE), ...parts]);
}

/**
 * Decode a file.
 * @param {Uint8Array} file
 * @returns {Promise<Decoded>}
 * @throws {PngError}
 */
export async function decode(file) {
  if (SIGNATURE.some((byte, i) => file[i] !== byte)) throw new PngError("is not a PNG file");
  const view = new DataView(file.buffer, file.byteOffset, file.byteLength);
  let at = 8;
  let header = null, palette = null;
  const packed = [];
  while (at + 12 <= file.length) {
    const length = view.getUint32(at);
    const name = String.fromCharCode(...file.subarray(at + 4, at + 8));
    if (at + 12 + length > file.length) break;
    const data = file.subarray(at + 8, at + 8 + length);
    if (name === "IHDR") header = data;
    else if (name === "PLTE") palette = data;
    else if (name === "IDAT") packed.push(data);
    else if (name === "IEND") break;
    at += 12 + length;
  }
  if (!header || header.length < 13 || !packed.length) throw new PngError("is cut short");
  const of = new DataView(header.buffer, header.byteOffset, 13);
  const width = of.getUint32(0), height = of.getUint32(4);
  const [bits, kind, , , interlaced] = header.subarray(8);
  const samples = SAMPLES.get(kind);
  if (!samples || interlaced || ![1, 2, 4, 8, 16].includes(bits) || (bits < 8 && samples > 1)) {
    throw new PngError(interlaced ? "is interlaced; save it without" : "is of an unknown kind");
  }
  if (!width || !height || width * height > MOST_PIXELS) {
    throw new PngError(`is ${width}x${height}; at most ${MOST_PIXELS} pixels are read`);
  }
  if (kind === PALETTE && !palette) throw new PngError("has no palette");
  const stride = Math.ceil((width * bits * samples) / 8);
  let rows;
  try {
    rows = await through(new DecompressionStream("deflate"), join(packed));
  } catch {
    throw new PngError("is damaged");
  }
  if (rows.length < height * (stride + 1)) throw new PngError("is cut short");
  const pixels = unfilter(rows, height, stride, Math.max(1, (bits * samples) >> 3));
  const coloured = kind === RGB || kind === RGBA;
  const values = new Int32Array(width * height);
  const colours = coloured || kind === PALETTE ? new Int32Array(width * height) : values;
  const step = bits >> 3;
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const pixel = y * width + x;
      if (coloured) {
        const start = y * stride + x * samples * step;
        values[pixel] = (pixels[start] << 16) | (pixels[start + step] << 8) | pixels[start + 2 * step];
        colours[pixel] = values[pixel];
      } else if (bits < 8) {
        const bit = x * bits;
        const shift = 8 - bits - (bit & 7);
        values[pixel] = (pixels[y * stride + (bit >> 3)] >> shift) & ((1 << bits) - 1);
      } else {
        const start = y * stride + x * samples * step;
        values[pixel] = bits === 16 ? (pixels[start] << 8) | pixels[start + 1] : pixels[start];
      }
      if (kind === PALETTE && palette) {
        const entry = 3 * values[pixel];
        colours[pixel] = (palette[entry] << 16) | (palette[entry + 1] << 8) | palette[entry + 2];
      }
    }
  }
  return { width, height, coloured, palette: kind === PALETTE, values, colours };
}

/**
 * Undo the filters of rows that each begin with their filter's number.
 * @param {Uint8Array} rows
 * @param {number} height
 * @param {number} stride  bytes of a row
 * @param {number} back  bytes of a pixel
 * @returns {Uint8Array} [height * stride]
 */
function unfilter(rows, height, stride, back) {
  const pixels = new Uint8Array(height * stride);
  for (let y = 0; y < height; y++) {
    const filter = rows[y * (stride + 1)];
    const from = y * (stride + 1) + 1, to = y * stride;
    for (let x = 0; x < stride; x++) {
      const left = x >= back ? pixels[to + x - back] : 0;
      const above = y ? pixels[to + x - stride] : 0;
      const corner = y && x >= back ? pixels[to + x - stride - back] : 0;
      let guess = 0;
      if (filter === 1) guess = left;
      else if (filter === 2) guess = above;
      else if (filter === 3) guess = (left + above) >> 1;
      else if (filter === 4) guess = paeth(left, above, corner);
      else if (filter) throw new PngError("is damaged");
      pixels[to + x] = rows[from + x] + guess;
    }
  }
  return pixels;
}

/** @param {number} left @param {number} above @param {number} corner */
function paeth(left, above, corner) {
  const a = Math.abs(above - corner), b = Math.abs(left - corner);
  const c = Math.abs(left + above - 2 * corner);
  if (a <= b && a <= c) return left;
  return b <= c ? above : corner;
}

/**
 * Bytes after a stream that packs or unpacks them; rejects where they are damaged.
 * @param {CompressionStream | DecompressionStream} stream
 * @param {Uint8Array} bytes
 */
export async function through(stream, bytes) {
  const body = new Blob([/** @type {BlobPart} */ (bytes)]).stream().pipeThrough(stream);
  return new Uint8Array(await new Response(body).arrayBuffer());
}

/** @param {string} name @param {Uint8Array} data */
function chunk(name, data) {
  const bytes = new Uint8Array(12 + data.length);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, data.length);
  bytes.set([...name].map((letter) => letter.charCodeAt(0)), 4);
  bytes.set(data, 8);
  view.setUint32(8 + data.length, crc32(bytes.subarray(4, 8 + data.length)));
  return bytes;
}

const CRC = Uint32Array.from({ length: 256 }, (_, n) => {
  for (let bit = 0; bit < 8; bit++) n = n & 1 ? 0xedb88320 ^ (n >>> 1) : n >>> 1;
  return n;
});

/** The CRC-32 of bytes, as in PNG and zip files. @param {Uint8Array} bytes */
export function crc32(bytes) {
  let crc = 0xffffffff;
  for (const byte of bytes) crc = CRC[(crc ^ byte) & 255] ^ (crc >>> 8);
  return (crc ^ 0xffffffff) >>> 0;
}

/** @param {Uint8Array[]} parts */
function join(parts) {
  const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}
