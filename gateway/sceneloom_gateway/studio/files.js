// @ts-check
/** Label and instance maps as a person has them: ids, palettes, 16 bits, or the schema's colours. */

import { LabelMap } from "./label-map.js";
import { PngError, decode } from "./png.js";

/** @typedef {import("./api.js").Model} Model */

/** A file that cannot be read; the message is for people. */
export class FileError extends Error {
  /** @param {string} file @param {string} message */
  constructor(file, message) {
    super(message);
    this.file = file;
  }
}

const INSTANCE_NAME = /inst/i;

/**
 * Read a label map, and perhaps an instance map by a name with "inst".
 * @param {File[]} files
 * @param {Model} model
 * @returns {Promise<{ map: LabelMap, report: string }>} `report` says what did not match
 */
export async function readMaps(files, model) {
  const instanceFile = files.find((file) => files.length > 1 && INSTANCE_NAME.test(file.name));
  const labelFile = files.find((file) => file !== instanceFile);
  if (!labelFile) throw new FileError("", "no label map");
  const labels = await read(labelFile);
  const { width, height } = labels;
  const { multiple } = model;
  if (width % multiple || height % multiple) {
    const near = [width, height].map((side) => Math.max(multiple, Math.round(side / multiple) * multiple));
    throw new FileError(labelFile.name,
      `is ${width}x${height}; both sides are multiples of ${multiple}, such as ${near.join("x")}`);
  }
  const map = new LabelMap(width, height, 0);
  const report = labels.coloured
    ? byColour(labels.colours, map, model)
    : byId(labels.values, map, model, labelFile.name);
  map.instances.set(map.labels);
  if (instanceFile) {
    const instances = await read(instanceFile);
    if (instances.width !== width || instances.height !== height) {
      throw new FileError(instanceFile.name,
        `is ${instances.width}x${instances.height}, and the label map ${width}x${height}`);
    }
    map.instances.set(instances.values);
  }
  return { map, report };
}

/** @param {File} file */
async function read(file) {
  try {
    return await decode(new Uint8Array(await file.arrayBuffer()));
  } catch (error) {
    throw new FileError(file.name, error instanceof PngError ? error.message : "cannot be read");
  }
}

/** @param {Int32Array} values @param {LabelMap} map @param {Model} model @param {string} name */
function byId(values, map, model, name) {
  const known = new Set(model.schema.labels.map((label) => label.id));
  const unknown = count(values.filter((value) => !known.has(value)));
  const { unlabelled } = model.schema;
  if (unknown.size && (unlabelled === undefined || [...unknown.keys()].some((id) => id > 255))) {
    const ids = [...unknown.keys()].slice(0, 5).join(", ");
    throw new FileError(name, `has the ids ${ids}, which ${model.schema.name} does not have`);
  }
  values.forEach((value, i) => (map.labels[i] = known.has(value) ? value : unlabelled ?? 0));
  return describe(unknown, values.length, (id) => `the id ${id}`);
}

/** @param {Int32Array} colours @param {LabelMap} map @param {Model} model */
function byColour(colours, map, model) {
  const classes = model.schema.labels.map(({ id, colour: [r, g, b] }) => ({ id, r, g, b }));
  // Where classes share a colour, such as car and licence plate, the first is meant.
  const exact = new Map(classes.toReversed().map(({ id, r, g, b }) => [(r << 16) | (g << 8) | b, id]));
  /** @type {Map<number, number>} */
  const nearest = new Map();
  colours.forEach((colour, i) => {
    let id = exact.get(colour) ?? nearest.get(colour);
    if (id === undefined) {
      const [r, g, b] = [colour >> 16, (colour >> 8) & 255, colour & 255];
      /** @param {typeof classes[0]} c */
      const distance = (c) => (c.r - r) ** 2 + (c.g - g) ** 2 + (c.b - b) ** 2;
      id = classes.reduce((best, c) => (distance(c) < distance(best) ? c : best)).id;
      nearest.set(colour, id);
    }
    map.labels[i] = id;
  });
  const others = count(colours.filter((colour) => !exact.has(colour)));
  return describe(others, colours.length, (colour) => `the colour #${colour.toString(16).padStart(6, "0")}`);
}

/** @param {Int32Array} values @returns {Map<number, number>} value -> pixels */
function count(values) {
  const counts = new Map();
  for (const value of values) counts.set(value, (counts.get(value) ?? 0) + 1);
  return counts;
}

/** @param {Map<number, number>} unknown @param {number} pixels @param {(value: number) => string} name */
function describe(unknown, pixels, name) {
  if (!unknown.size) return "";
  const all = [...unknown.values()].reduce((sum, n) => sum + n, 0);
  const most = [...unknown].sort((a, b) => b[1] - a[1])[0][0];
  const share = ((100 * all) / pixels).toFixed(1);
  return `${share} % of the pixels match no class (most of them ${name(most)}); they became the nearest`;
}
