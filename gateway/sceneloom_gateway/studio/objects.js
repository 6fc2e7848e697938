// @ts-check
/** Countable things of a map: a number for each new one, and moving, copying and deleting them. */

import { joinChanges } from "./label-map.js";

/** @typedef {import("./label-map.js").LabelMap} LabelMap */
/** @typedef {import("./label-map.js").Change} Change */
/** @typedef {import("./label-map.js").Span} Span */

/**
 * The instance id of a new thing of a class: the first free number.
 * @param {LabelMap} map
 * @param {number} label
 * @param {number} divisor  instance ids are `class * divisor + n`
 */
export function newInstance(map, label, divisor) {
  const used = map.instanceIds();
  for (let n = 0; n < divisor; n++) {
    if (!used.has(label * divisor + n)) return label * divisor + n;
  }
  throw new RangeError(`a class has at most ${divisor} things`);
}

/**
 * Delete a thing: its pixels become what lies nearest beside them.
 * @param {LabelMap} map
 * @param {number} instance
 * @returns {Change}
 */
export function deleteThing(map, instance) {
  return joinChanges(map.spansOf(instance).map((span) => heal(map, span, instance)));
}

/**
 * Give a span, half by half, the class on its left and right; where it spans the map, that above.
 * @param {LabelMap} map
 * @param {Span} span
 * @param {number} instance  the thing that goes; its own pixels are no neighbours
 */
function heal(map, { y, start, end }, instance) {
  const { width, labels, instances } = map;
  /** @param {number} x @param {number} row */
  const at = (x, row) => {
    const pixel = row * width + x;
    const outside = x < 0 || x >= width || row < 0 || instances[pixel] === instance;
    return outside ? null : pixel;
  };
  const left = at(start - 1, y), right = at(end, y), above = at(start, y - 1);
  const near = left ?? right ?? above ?? 0, far = right ?? left ?? above ?? 0;
  const [a, b] = [near, far].map((pixel) => [labels[pixel], instances[pixel]]);
  const middle = (start + end) >> 1;
  return joinChanges([
    map.paint([{ y, start, end: middle }], a[0], a[1]),
    map.paint([{ y, start: middle, end }], b[0], b[1]),
  ]);
}

/**
 * Move a thing.
 * @param {LabelMap} map
 * @param {number} instance
 * @param {number} dx  whole pixels to the right
 * @param {number} dy  whole pixels down
 * @returns {Change}
 */
export function moveThing(map, instance, dx, dy) {
  const spans = map.spansOf(instance);
  if (!spans.length) return joinChanges([]);
  const label = map.labels[spans[0].y * map.width + spans[0].start];
  const gone = deleteThing(map, instance);
  return joinChanges([gone, map.paint(shift(spans, dx, dy), label, instance)]);
}

/**
 * Copy a thing, as a thing of its own.
 * @param {LabelMap} map
 * @param {number} instance
 * @param {number} dx
 * @param {number} dy
 * @param {number} copy  instance id of the copy
 * @returns {Change}
 */
export function copyThing(map, instance, dx, dy, copy) {
  const spans = map.spansOf(instance);
  if (!spans.length) return joinChanges([]);
  const label = map.labels[spans[0].y * map.width + spans[0].start];
  return map.paint(shift(spans, dx, dy), label, copy);
}

/** @param {Span[]} spans @param {number} dx @param {number} dy @returns {Span[]} */
function shift(spans, dx, dy) {
  return spans.map(({ y, start, end }) => ({ y: y + dy, start: start + dx, end: end + dx }));
}
