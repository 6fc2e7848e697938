// @ts-check
/** Shapes as spans of pixels: without half-covered pixels, since a class has no halves. */

/** @typedef {import("./label-map.js").Span} Span */
/** @typedef {{ x: number, y: number }} Point  in pixels; (0, 0) is the first pixel's top left corner */

/**
 * A round brush drawn from a point to another.
 * @param {Point} from
 * @param {Point} to
 * @param {number} size  diameter in pixels, from 1
 * @returns {Generator<Span>}
 */
export function* stroke(from, to, size) {
  const radius = size / 2;
  const dx = to.x - from.x, dy = to.y - from.y;
  const length = dx * dx + dy * dy;
  const top = Math.floor(Math.min(from.y, to.y) - radius);
  const bottom = Math.ceil(Math.max(from.y, to.y) + radius);
  for (let y = top; y <= bottom; y++) {
    // A pixel belongs to it if its middle does. Where a row's middle line meets the shape is found
    // for both round ends and the band between them.
    const middle = y + 0.5;
    let start = Infinity, end = -Infinity;
    for (const centre of [from, to]) {
      const rest = radius * radius - (middle - centre.y) ** 2;
      if (rest >= 0) {
        start = Math.min(start, centre.x - Math.sqrt(rest));
        end = Math.max(end, centre.x + Math.sqrt(rest));
      }
    }
    if (length > 0) {
      const scale = radius / Math.sqrt(length);
      const [nx, ny] = [-dy * scale, dx * scale];
      const corners = [
        { x: from.x + nx, y: from.y + ny },
        { x: to.x + nx, y: to.y + ny },
        { x: to.x - nx, y: to.y - ny },
        { x: from.x - nx, y: from.y - ny },
      ];
      for (const x of crossings(corners, middle)) {
        start = Math.min(start, x);
        end = Math.max(end, x);
      }
    }
    const first = Math.ceil(start - 0.5), last = Math.floor(end - 0.5);
    if (first <= last) yield { y, start: first, end: last + 1 };
    else if (size <= 1.5 && y === Math.floor(from.y)) yield dot(from);
  }
}

/** @param {Point} point @returns {Span} */
function dot(point) {
  return { y: Math.floor(point.y), start: Math.floor(point.x), end: Math.floor(point.x) + 1 };
}

/**
 * A rectangle between two corners, both included.
 * @param {Point} from
 * @param {Point} to
 * @returns {Generator<Span>}
 */
export function* rectangle(from, to) {
  const [left, right] = [from.x, to.x].map(Math.floor).sort((a, b) => a - b);
  const [top, bottom] = [from.y, to.y].map(Math.floor).sort((a, b) => a - b);
  for (let y = top; y <= bottom; y++) yield { y, start: left, end: right + 1 };
}

/**
 * A closed polygon, by the even-odd rule.
 * @param {Point[]} corners
 * @returns {Generator<Span>}
 */
export function* polygon(corners) {
  const ys = corners.map((corner) => corner.y);
  for (let y = Math.floor(Math.min(...ys)); y <= Math.ceil(Math.max(...ys)); y++) {
    const xs = crossings(corners, y + 0.5).sort((a, b) => a - b);
    for (let i = 0; i + 1 < xs.length; i += 2) {
      const start = Math.ceil(xs[i] - 0.5), end = Math.floor(xs[i + 1] - 0.5) + 1;
      if (start < end) yield { y, start, end };
    }
  }
}

/**
 * The connected pixels of one class and instance around a pixel.
 * @param {import("./label-map.js").LabelMap} map
 * @param {Point} from
 * @returns {Span[]}
 */
export function bucket(map, from) {
  const { width, height, labels, instances } = map;
  const x0 = Math.floor(from.x), y0 = Math.floor(from.y);
  if (x0 < 0 || y0 < 0 || x0 >= width || y0 >= height) return [];
  const label = labels[y0 * width + x0], instance = instances[y0 * width + x0];
  const seen = new Uint8Array(width * height);
  /** @param {number} at */
  const same = (at) => !seen[at] && labels[at] === label && instances[at] === instance;
  const spans = [];
  const waiting = [y0 * width + x0];
  while (waiting.length) {
    const at = /** @type {number} */ (waiting.pop());
    if (!same(at)) continue;
    const y = Math.floor(at / width);
    let start = at, end = at + 1;
    while (start > y * width && same(start - 1)) start--;
    while (end < (y + 1) * width && same(end)) end++;
    seen.fill(1, start, end);
    spans.push({ y, start: start - y * width, end: end - y * width });
    for (const step of [-width, width]) {
      if ((step < 0 && y === 0) || (step > 0 && y === height - 1)) continue;
      for (let i = start; i < end; i++) {
        if (same(i + step) && (i === start || !same(i + step - 1))) waiting.push(i + step);
      }
    }
  }
  return spans;
}

/**
 * Where the edges of a closed polygon cross the line at height `y`.
 * @param {Point[]} corners
 * @param {number} y
 */
function crossings(corners, y) {
  const xs = [];
  let before = corners[corners.length - 1];
  for (const corner of corners) {
    if (before.y <= y !== corner.y <= y) {
      xs.push(before.x + ((y - before.y) / (corner.y - before.y)) * (corner.x - before.x));
    }
    before = corner;
  }
  return xs;
}
