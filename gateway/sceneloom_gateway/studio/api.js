// @ts-check
/** The gateway's interface, as far as the studio uses it (docs/gateway.md). */

import { LabelMap } from "./label-map.js";
import { decode, encode } from "./png.js";
import { zip } from "./zip.js";

/**
 * @typedef {object} Model
 * @property {string} name
 * @property {{ name: string, labels: { id: number, name: string, colour: [number, number, number] }[],
 *   unlabelled?: number, instance_divisor?: number }} schema
 * @property {number} multiple  both sides of a map are multiples of it
 * @property {{ width: number, height: number }} size  of the map to begin with
 * @property {boolean} hasStreets  there are streets to begin with
 * @property {Set<number>} countable  ids of the classes whose things are counted
 * @property {boolean} takesInstances
 * @property {Map<number, number>} looks  class id -> number of its looks
 */

const KEY = "sceneloom-key";

/** An answer that is no picture; the message is for people. */
export class GatewayError extends Error {}

/** @returns {Promise<Model>} */
export async function fetchModel() {
  const [answer, start] = await Promise.all(
    [request("/v1/model"), request("start.json")].map(async (found) => (await found).json()),
  );
  const { contract } = answer;
  if (!contract.schema) throw new GatewayError("this model takes pictures, and the studio paints label maps");
  return {
    name: answer.model,
    schema: contract.schema,
    multiple: contract.size_multiple,
    size: start,
    hasStreets: start.has_streets,
    countable: new Set(start.countable),
    takesInstances: contract.boundaries || contract.style_channels > 0,
    looks: new Map(
      Object.entries(contract.style_clusters ?? {}).map(([id, looks]) => [Number(id), looks.length]),
    ),
  };
}

/** A street to begin with, or an empty map. @param {Model} model @param {number} number @returns {Promise<LabelMap>} */
export async function fetchSample(model, number) {
  const { width, height } = model.size;
  if (!model.hasStreets) return new LabelMap(width, height, model.schema.labels[0].id);
  const [labels, instances] = await Promise.all(
    ["labels", "instances"].map(async (kind) => {
      const answer = await request(`samples/${number}/${kind}.png`);
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
 * @param {Model} model
 * @param {object} options
 * @param {number | null} options.seed
 * @param {Map<number, number>} options.looks  instance id -> index of a look of its class
 * @param {AbortSignal} options.signal
 * @param {string} [options.accept]
 * @returns {Promise<Blob>}
 */
export async function synthesize(map, model, { seed, looks, signal, accept = "image/jpeg" }) {
  const { width, height } = map;
  const form = new FormData();
  form.set("label", await png(map.labels, width, height), "label.png");
  if (model.takesInstances) {
    form.set("instances", await png(Uint16Array.from(map.instances), width, height), "instances.png");
  }
  if (seed !== null) {
    form.set("style_seed", String(seed));
    form.set("style_of", "all");
  }
  if (looks.size) form.set("style", JSON.stringify(Object.fromEntries(looks)));
  const answer = await request("/v1/synthesize",
    { method: "POST", body: form, signal, headers: { Accept: accept } });
  return answer.blob();
}

/**
 * Pictures of a map in looks that are drawn anew for each, as a job of the gateway.
 * @param {LabelMap} map
 * @param {Model} model
 * @param {object} options
 * @param {number} options.seed
 * @param {number} options.count
 * @param {(made: number) => void} options.progress
 * @returns {Promise<Blob>} zip file of the pictures and their manifest
 */
export async function renderVariations(map, model, { seed, count, progress }) {
  const { width, height } = map;
  const files = new Map([["test_label/scene.png", await encode(map.labels, width, height)]]);
  if (model.takesInstances) {
    files.set("test_inst/scene.png", await encode(Uint16Array.from(map.instances), width, height));
  }
  const body = zip(files);
  const options = new URLSearchParams({ style_seed: String(seed), style_of: "all", looks: String(count) });
  const sent = { method: "POST", body, headers: { "Content-Type": "application/zip" } };
  let job = await (await request(`/v1/jobs?${options}`, sent)).json();
  const place = `/v1/jobs/${job.id}`;
  try {
    while (job.state !== "done" && job.state !== "failed") {
      await new Promise((resolve) => setTimeout(resolve, 400));
      job = await (await request(place)).json();
      progress(job.made);
    }
    if (job.state === "failed") throw new GatewayError(job.reason);
    if (job.failed) throw new GatewayError(job.failures[0].reason ?? String(job.failures[0]));
    return await (await request(`${place}/result`)).blob();
  } finally {
    await request(place, { method: "DELETE" });
  }
}

/** @param {Uint8Array | Uint16Array} values @param {number} width @param {number} height */
async function png(values, width, height) {
  const bytes = await encode(values, width, height);
  return new Blob([/** @type {BlobPart} */ (bytes)], { type: "image/png" });
}

/**
 * An answer of the gateway. A key, where one is wanted, is asked for once a tab.
 * @param {string} path @param {RequestInit} [options]
 * @returns {Promise<Response>}
 */
async function request(path, options = {}) {
  const headers = new Headers(options.headers);
  const key = sessionStorage.getItem(KEY);
  if (key) headers.set("Authorization", `Bearer ${key}`);
  const answer = await fetch(path, { ...options, headers });
  if (answer.ok) return answer;
  if (answer.status === 401) {
    const given = window.prompt("This gateway wants an API key:");
    if (given) {
      sessionStorage.setItem(KEY, given.trim());
      return request(path, options);
    }
  }
  let said = `${answer.status} ${answer.statusText}`;
  try {
    const problem = await answer.json();
    said = problem.detail ?? problem.title ?? said;
  } catch {
    // Not a problem document: the status has to do.
  }
  throw new GatewayError(said);
}
