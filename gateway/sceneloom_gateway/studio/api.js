// @ts-check
/** The gateway's interface, as far as the studio uses it (docs/gateway.md). */

import { LabelMap } from "./label-map.js";
import { decode, encode } from "./png.js";

/**
 * @typedef {object} Model
 * @property {string} name
 * @property {{ name: string, labels: { id: number, name: string, colour: [number, number, number] }[],
 *   unlabelled?: number, instance_divisor?: number }} schema
 * @property {number} multiple  both sides of a map are multiples of it
 * @property {boolean} hasStyle
 * @property {Set<number>} countable  ids of the classes whose things are counted
 * @property {Map<number, number[][]>} looks  class id -> style vectors of its looks
 */

/** An answer that is no picture; the message is for people. */
export class GatewayError extends Error {}

/** @returns {Promise<Model>} */
export async function fetchModel() {
  const found = await (await checked(await fetch("/v1/model"))).json();
  const contract = found.contract ?? found;
  return {
    name: found.name ?? "model",
    schema: contract.schema,
    multiple: contract.size_multiple,
    countable: new Set(found.countable ?? []),
    hasStyle: contract.style_channels > 0,
    looks: new Map(
      Object.entries(contract.style_clusters ?? {}).map(([id, vectors]) => [Number(id), vectors]),
    ),
  };
}

/** A street to begin with. @param {number} number @returns {Promise<LabelMap>} */
export async function fetchSample(number) {
  const [labels, instances] = await Promise.all(
    ["labels", "instances"].map(async (kind) => {
      const answer = await checked(await fetch(`samples/${number}/${kind}.png`));
      return decode(new Uint8Array(await answer.arrayBuffer()));
    }),
  );
  const map = new LabelMap(labels.width, labels.height, 0);
  map.labels.set(labels.values);
  map.instances.set(instances.values);
  return map;
}

/**
 * Render a map.
 * @param {LabelMap} map
 * @param {object} options
 * @param {number | null} options.seed
 * @param {Map<number, number[]>} options.vectors  instance id -> style vector
 * @param {AbortSignal} options.signal
 * @param {string} [options.accept]
 * @returns {Promise<Blob>}
 */
export async function synthesize(map, { seed, vectors, signal, accept = "image/jpeg" }) {
  const { width, height } = map;
  const form = new FormData();
  form.set("label", await png(map.labels, width, height), "label.png");
  form.set("instances", await png(denseInstances(map), width, height), "instances.png");
  if (seed !== null) form.set("style_seed", String(seed));
  if (vectors.size) {
    const instances = Object.fromEntries([...vectors].map(([id, vector]) => [id, vector]));
    form.set("style", JSON.stringify({ instances }));
  }
  const request = { method: "POST", body: form, signal, headers: { Accept: accept } };
  const answer = await checked(await fetch("/v1/synthesize", request));
  return answer.blob();
}

/** Instance ids of 16 bits. @param {LabelMap} map */
function denseInstances(map) {
  return Uint16Array.from(map.instances);
}

/** @param {Uint8Array | Uint16Array} values @param {number} width @param {number} height */
async function png(values, width, height) {
  const bytes = await encode(values, width, height);
  return new Blob([/** @type {BlobPart} */ (bytes)], { type: "image/png" });
}

/** @param {Response} answer */
async function checked(answer) {
  if (answer.ok) return answer;
  let said = `${answer.status} ${answer.statusText}`;
  try {
    const problem = await answer.json();
    said = problem.detail ?? problem.title ?? said;
  } catch {
    // Not a problem document: the status has to do.
  }
  throw new GatewayError(said);
}
