// @ts-check
/**
 * What a pointer does to the map. A tool hears where it goes down, moves and goes up, in the map's
 * pixels, and returns the spans to paint at once; the studio gives them class and instance.
 */

import { bucket, polygon, rectangle, stroke } from "./shapes.js";

/** @typedef {import("./shapes.js").Point} Point */
/** @typedef {import("./label-map.js").Span} Span */
/** @typedef {import("./label-map.js").LabelMap} LabelMap */

/**
 * @typedef {object} Tool
 * @property {string} name
 * @property {string} key  its letter on the keyboard
 * @property {string} hint
 * @property {(point: Point, map: LabelMap, size: number) => Iterable<Span>} [down]
 * @property {(point: Point, map: LabelMap, size: number) => Iterable<Span>} [move]
 * @property {(point: Point, map: LabelMap, size: number) => Iterable<Span>} [up]
 * @property {(map: LabelMap, size: number) => Iterable<Span>} [finish]  Enter or a double click
 * @property {() => Point[]} [outline]  of what is being drawn, for the screen
 * @property {() => void} [cancel]
 */

/** @param {string} name @param {string} key @param {string} hint @returns {Tool} */
function brush(name, key, hint) {
  /** @type {Point | null} */
  let last = null;
  return {
    name,
    key,
    hint,
    down(point, _map, size) {
      last = point;
      return stroke(point, point, size);
    },
    move(point, _map, size) {
      const from = last ?? point;
      last = point;
      return stroke(from, point, size);
    },
    up() {
      last = null;
      return [];
    },
    cancel() {
      last = null;
    },
  };
}

/**
 * A tool between two points: nothing is painted before it goes up.
 * @param {string} name
 * @param {string} key
 * @param {string} hint
 * @param {(from: Point, to: Point, size: number) => Iterable<Span>} spans
 * @param {(from: Point, to: Point) => Point[]} outline
 * @returns {Tool}
 */
function between(name, key, hint, spans, outline) {
  /** @type {Point | null} */
  let from = null;
  /** @type {Point | null} */
  let to = null;
  return {
    name,
    key,
    hint,
    down(point) {
      from = to = point;
      return [];
    },
    move(point) {
      to = point;
      return [];
    },
    up(point, _map, size) {
      const start = from;
      from = to = null;
      return start ? spans(start, point, size) : [];
    },
    outline: () => (from && to ? outline(from, to) : []),
    cancel() {
      from = to = null;
    },
  };
}

/** @returns {Tool} */
function polygonTool() {
  /** @type {Point[]} */
  let corners = [];
  return {
    name: "polygon",
    key: "p",
    hint: "Click the corners; Enter or a double click closes it, Escape gives up",
    down(point) {
      corners = [...corners, point];
      return [];
    },
    finish() {
      const found = corners;
      corners = [];
      return found.length < 3 ? [] : polygon(found);
    },
    outline: () => corners,
    cancel() {
      corners = [];
    },
  };
}

/** All tools that paint, by name. @returns {Map<string, Tool>} */
export function createTools() {
  const tools = [
    brush("brush", "b", "Paint the chosen class"),
    brush("eraser", "e", "Paint the class of the ground"),
    between("line", "l", "A line as wide as the brush", stroke, (a, b) => [a, b]),
    between("rectangle", "r", "A rectangle between two corners", rectangle, (a, b) => [
      a,
      { x: b.x, y: a.y },
      b,
      { x: a.x, y: b.y },
      a,
    ]),
    polygonTool(),
    {
      name: "bucket",
      key: "f",
      hint: "Fill what is connected and of one kind",
      /** @param {Point} point @param {LabelMap} map */
      down: (point, map) => bucket(map, point),
    },
  ];
  return new Map(tools.map((tool) => [tool.name, tool]));
}
