// @ts-check
/**
 * A scene as one JSON file: the map, the instances and the looks. `sceneloom_gateway.scene` reads and
 * writes the same in Python; docs/studio.md describes it.
 *
 * Maps are PNG files in base64: 8-bit classes, and instances as 32 bits in two 16-bit maps of the
 * upper and lower halves, since a PNG file has no 32-bit numbers.
 */

import { LabelMap } from "./label-map.js";
import { decode, encode, through } from "./png.js";

export const FORMAT = 1;
const LINK = "scene=";

/**
 * @typedef {object} Scene
 * @property {LabelMap} map
 * @property {string} schema  name of the label schema
 * @property {number | null} seed  of the looks of the whole scene; null for each class's default
 * @property {Map<number, number>} looks  instance id -> index of a look of its class
 */

/** A file that is no scene; the message is for people. */
export class SceneError extends Error {}

/** @param {Scene} scene @returns {Promise<string>} JSON */
export async function save({ map, schema, seed, looks }) {
  const { width, height, labels, instances } = map;
  const upper = Uint16Array.from(instances, (id) => id >>> 16);
  const lower = Uint16Array.from(instances, (id) => id & 0xffff);
  return JSON.stringify({
    format: FORMAT,
    schema,
    width,
    height,
    labels: toBase64(await encode(labels, width, height)),
    instances_upper: toBase64(await encode(upper, width, height)),
    instances_lower: toBase64(await encode(lower, width, height)),
    seed,
    looks: Object.fromEntries(looks),
  });
}

/**
 * @param {string} text  JSON
 * @returns {Promise<Scene>}
 * @throws {SceneError}
 */
export async function load(text) {
  let found;
  try {
    found = JSON.parse(text);
  } catch {
    throw new SceneError("is not JSON");
  }
  if (found?.format !== FORMAT) throw new SceneError(`is not a scene of format ${FORMAT}`);
  try {
    const names = ["labels", "instances_upper", "instances_lower"];
    const [labels, upper, lower] = await Promise.all(names.map((name) => decode(fromBase64(found[name]))));
    const { width, height } = labels;
    for (const each of [upper, lower]) {
      if (each.width !== width || each.height !== height) throw new SceneError("has maps of different sizes");
    }
    const map = new LabelMap(width, height, 0);
    map.labels.set(labels.values);
    map.instances.set(upper.values.map((value, i) => (value << 16) | lower.values[i]));
    const looks = new Map(
      Object.entries(found.looks ?? {}).map(([id, look]) => [Number(id), Number(look)]),
    );
    return { map, schema: String(found.schema), seed: found.seed ?? null, looks };
  } catch (error) {
    if (error instanceof SceneError) throw error;
    throw new SceneError(error instanceof Error ? `has a map that ${error.message}` : "is damaged");
  }
}

/** A scene as the part of a link after `#`. @param {Scene} scene @returns {Promise<string>} */
export async function saveLink(scene) {
  const packed = await through(new CompressionStream("deflate-raw"), new TextEncoder().encode(await save(scene)));
  return LINK + toBase64(packed).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
}

/**
 * The scene of a link; null if there is none in it.
 * @param {string} hash  with its `#`
 * @returns {Promise<Scene | null>}
 * @throws {SceneError}
 */
export async function loadLink(hash) {
  if (!hash.startsWith(`#${LINK}`)) return null;
  let text;
  try {
    const packed = fromBase64(hash.slice(LINK.length + 1).replaceAll("-", "+").replaceAll("_", "/"));
    text = new TextDecoder().decode(await through(new DecompressionStream("deflate-raw"), packed));
  } catch {
    throw new SceneError("is cut short or damaged");
  }
  return load(text);
}

/** @param {Uint8Array} bytes */
function toBase64(bytes) {
  let text = "";
  for (let i = 0; i < bytes.length; i += 0x8000) {
    text += String.fromCharCode(...bytes.subarray(i, i + 0x8000));
  }
  return btoa(text);
}

/** @param {string} text */
function fromBase64(text) {
  return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
}
