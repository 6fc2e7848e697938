// @ts-check
/**
 * The studio's state and what can be done to it. It knows nothing of the page: `ui` calls it and
 * hears of changes.
 */

import { renderVariations, synthesize } from "./api.js";
import { History } from "./history.js";
import { LabelMap, joinChanges } from "./label-map.js";
import { copyThing, deleteThing, moveThing, newInstance } from "./objects.js";
import { RenderQueue } from "./render-queue.js";
import { createTools } from "./tools.js";

/** @typedef {import("./api.js").Model} Model */
/** @typedef {import("./label-map.js").Change} Change */
/** @typedef {import("./label-map.js").Span} Span */
/** @typedef {import("./shapes.js").Point} Point */
/** @typedef {"map" | "tool" | "class" | "selection" | "looks" | "picture" | "busy" | "size"} Event */

const DRAFT_STEP = 2;
const THUMBNAIL_MARGIN = 0.4;
const COPY_OFFSET = 24;

export class Studio {
  /** @param {Model} model @param {LabelMap} map */
  constructor(model, map) {
    this.model = model;
    this.tools = createTools();
    this.history = new History();
    /** Instance id -> index of its look. @type {Map<number, number>} */
    this.looks = new Map();
    /** @type {number | null} */
    this.seed = null;
    this.tool = "brush";
    this.size = 24;
    this.label = model.schema.labels[0].id;
    /** @type {number | null} */
    this.selection = null;
    /** @type {Blob | null} */
    this.picture = null;
    /** @type {string} */
    this.problem = "";
    this.map = map;
    this.base = map.copy();
    this.queue = new RenderQueue({
      render: (draft, signal) => this.#render(draft, signal),
      show: (picture, draft) => {
        this.picture = picture;
        this.problem = "";
        this.isDraft = draft;
        this.#tell("picture");
      },
      fail: (error) => this.report(error),
      busy: (busy) => {
        this.isBusy = busy;
        this.#tell("busy");
      },
    });
    this.isBusy = false;
    this.isDraft = false;
  }

  /** @type {((event: Event, change?: Change) => void)[]} */
  #listeners = [];
  /** @type {Change[]} */
  #stroke = [];
  #instance = 0;
  #drawing = false;
  /** @type {Point | null} */
  #dragFrom = null;

  /** Hear of every change. @param {(event: Event, change?: Change) => void} listener */
  listen(listener) {
    this.#listeners.push(listener);
  }

  /** @param {Event} event @param {Change} [change] */
  #tell(event, change) {
    for (const listener of this.#listeners) listener(event, change);
  }

  /** Show an error in words. @param {unknown} error */
  report(error) {
    this.problem = error instanceof Error ? error.message : String(error);
    this.#tell("busy");
  }

  /** Begin with another map. @param {LabelMap} map @param {{ seed?: number | null, looks?: Map<number, number> }} [given] */
  open(map, { seed = null, looks = new Map() } = {}) {
    this.map = map;
    this.base = map.copy();
    this.history.clear();
    this.selection = null;
    this.seed = seed;
    this.looks = looks;
    this.#tell("size");
    this.#tell("map");
    this.#tell("selection");
    this.queue.request(false);
  }

  /** Begin with a scene. @param {import("./scene.js").Scene} scene */
  openScene(scene) {
    if (scene.schema !== this.model.schema.name) {
      throw new Error(`has the labels of ${scene.schema}, and this model takes ${this.model.schema.name}`);
    }
    this.open(scene.map, scene);
  }

  /** What is saved of this. @returns {import("./scene.js").Scene} */
  get scene() {
    const { map, seed, looks, model } = this;
    return { map, seed, looks, schema: model.schema.name };
  }

  /** @param {string} tool */
  chooseTool(tool) {
    this.#current()?.cancel?.();
    this.tool = tool;
    this.#tell("tool");
  }

  /** @param {number} label */
  chooseClass(label) {
    this.label = label;
    if (!this.tools.has(this.tool) || this.tool === "eraser") this.tool = "brush";
    this.#tell("tool");
    this.#tell("class");
  }

  /** @param {number} size  in pixels */
  chooseSize(size) {
    this.size = Math.max(1, Math.min(200, size));
    this.#tell("tool");
  }

  #current() {
    return this.tools.get(this.tool);
  }

  /** The corners of what is being drawn. */
  outline() {
    return this.#current()?.outline?.() ?? [];
  }

  /** Class and instance below a point; null outside the map. @param {Point} point */
  at(point) {
    const x = Math.floor(point.x), y = Math.floor(point.y);
    if (x < 0 || y < 0 || x >= this.map.width || y >= this.map.height) return null;
    const pixel = y * this.map.width + x;
    return { label: this.map.labels[pixel], instance: this.map.instances[pixel] };
  }

  /** Whether an instance is a thing of its own. @param {number} instance */
  isThing(instance) {
    const divisor = this.model.schema.instance_divisor;
    return divisor !== undefined && instance >= divisor;
  }

  /** A pointer goes down. @param {Point} point */
  down(point) {
    const here = this.at(point);
    if (this.tool === "pick") {
      if (here) this.chooseClass(here.label);
      return;
    }
    if (this.tool === "select") {
      this.select(here && this.isThing(here.instance) ? here.instance : null);
      this.#dragFrom = this.selection === null ? null : point;
      return;
    }
    this.#drawing = true;
    this.#stroke = [];
    // A stroke that begins on a thing of its class makes it larger; any other begins a new one.
    const counted = this.model.countable.has(this.label);
    const divisor = this.model.schema.instance_divisor ?? 1000;
    if (!counted) this.#instance = this.label;
    else if (here && here.label === this.label) this.#instance = here.instance;
    else this.#instance = newInstance(this.map, this.label, divisor);
    this.#paint(this.#current()?.down?.(point, this.map, this.size));
    if (this.tool === "bucket") this.up(point);
  }

  /** A pointer that is down moves. @param {Point} point */
  move(point) {
    if (this.#drawing) this.#paint(this.#current()?.move?.(point, this.map, this.size));
  }

  /** A pointer goes up. @param {Point} point */
  up(point) {
    if (this.#dragFrom && this.selection !== null) {
      const dx = Math.round(point.x - this.#dragFrom.x), dy = Math.round(point.y - this.#dragFrom.y);
      this.#dragFrom = null;
      if (dx || dy) this.moveSelection(dx, dy);
      return;
    }
    if (!this.#drawing) return;
    this.#drawing = false;
    this.#paint(this.#current()?.up?.(point, this.map, this.size));
    this.#finishStroke();
  }

  /** Close a polygon. */
  finish() {
    this.#paint(this.#current()?.finish?.(this.map, this.size));
    this.#finishStroke();
    this.#tell("tool");
  }

  /** Give up what is being drawn, or the selection. */
  cancel() {
    this.#drawing = false;
    this.#current()?.cancel?.();
    this.#finishStroke();
    this.select(null);
    this.#tell("tool");
  }

  /** @param {Iterable<Span>} [spans] */
  #paint(spans) {
    if (!spans) return;
    const change =
      this.tool === "eraser"
        ? this.map.restore(spans, this.base)
        : this.map.paint(spans, this.label, this.#instance);
    if (!change.runs.length) return this.#tell("tool");
    this.#stroke.push(change);
    this.#tell("map", change);
    this.queue.request(true);
  }

  #finishStroke() {
    if (!this.#stroke.length) return;
    const change = joinChanges(this.#stroke);
    this.#stroke = [];
    this.#note(change);
  }

  /** Note a change that was made, and render it. @param {Change} change */
  #note(change) {
    this.history.push({
      undo: () => {
        this.map.undo(change);
        this.#tell("map", change);
      },
      redo: () => {
        this.map.redo(change);
        this.#tell("map", change);
      },
    });
    this.#tell("map", change);
    this.queue.request(false);
  }

  undo() {
    if (this.history.undo()) this.#afterHistory();
  }

  redo() {
    if (this.history.redo()) this.#afterHistory();
  }

  #afterHistory() {
    if (this.selection !== null && !this.map.boundsOf(this.selection)) this.select(null);
    this.#tell("looks");
    this.queue.request(false);
  }

  /** @param {number | null} instance */
  select(instance) {
    if (instance === this.selection) return;
    this.selection = instance;
    this.#tell("selection");
  }

  /** Class id of the selected thing. */
  get selectedLabel() {
    if (this.selection === null) return null;
    return Math.floor(this.selection / (this.model.schema.instance_divisor ?? 1000));
  }

  /** @param {number} dx @param {number} dy */
  moveSelection(dx, dy) {
    if (this.selection !== null) this.#note(moveThing(this.map, this.selection, dx, dy));
    this.#tell("selection");
  }

  deleteSelection() {
    if (this.selection === null) return;
    const gone = deleteThing(this.map, this.selection);
    this.select(null);
    this.#note(gone);
  }

  duplicateSelection() {
    const { selection, selectedLabel } = this;
    if (selection === null || selectedLabel === null) return;
    const copy = newInstance(this.map, selectedLabel, this.model.schema.instance_divisor ?? 1000);
    const change = copyThing(this.map, selection, COPY_OFFSET, 0, copy);
    const look = this.looks.get(selection);
    if (look !== undefined) this.looks.set(copy, look);
    this.#note(change);
    this.select(copy);
  }

  /** How many looks the selected thing's class has. */
  get selectedLooks() {
    return this.selectedLabel === null ? 0 : this.model.looks.get(this.selectedLabel) ?? 0;
  }

  /** Give things a look. @param {number[]} instances @param {number} look */
  giveLook(instances, look) {
    const before = new Map(this.looks), after = new Map(this.looks);
    for (const instance of instances) after.set(instance, look);
    this.#setLooks(before, after, this.seed, this.seed);
  }

  /** Give all things of the selected one's class its look. */
  giveLookToAll() {
    const { selection, selectedLabel } = this;
    const look = selection === null ? undefined : this.looks.get(selection);
    if (look === undefined || selectedLabel === null) return;
    const divisor = this.model.schema.instance_divisor ?? 1000;
    const ids = [...this.map.instanceIds()].filter((id) => Math.floor(id / divisor) === selectedLabel);
    this.giveLook(ids, look);
  }

  /** Draw all looks anew, or (null) give every class its own. @param {number | null} seed */
  giveSeed(seed) {
    this.#setLooks(new Map(this.looks), new Map(), this.seed, seed);
  }

  /** @param {Map<number, number>} before @param {Map<number, number>} after @param {number | null} oldSeed @param {number | null} newSeed */
  #setLooks(before, after, oldSeed, newSeed) {
    /** @param {Map<number, number>} looks @param {number | null} seed */
    const set = (looks, seed) => {
      this.looks = new Map(looks);
      this.seed = seed;
      this.#tell("looks");
    };
    this.history.push({ undo: () => set(before, oldSeed), redo: () => set(after, newSeed) });
    set(after, newSeed);
    this.queue.request(false);
  }

  /** Looks of the things that are on a map. @param {LabelMap} map */
  #looksOn(map) {
    const there = this.looks.size ? map.instanceIds() : new Set();
    return new Map([...this.looks].filter(([instance]) => there.has(instance)));
  }

  /** @param {boolean} draft @param {AbortSignal} signal */
  #render(draft, signal) {
    const { width, height } = this.map;
    const multiple = this.model.multiple * DRAFT_STEP;
    const small = draft && width % multiple === 0 && height % multiple === 0;
    const map = small ? this.map.copy(undefined, DRAFT_STEP) : this.map;
    return synthesize(map, this.model, { seed: this.seed, looks: this.#looksOn(map), signal });
  }

  /** A picture of the map as it is, as a file. @param {string} accept  media type */
  renderFile(accept) {
    const signal = new AbortController().signal;
    const options = { seed: this.seed, looks: this.#looksOn(this.map), signal, accept };
    return synthesize(this.map, this.model, options);
  }

  /**
   * The scene in other looks.
   * @param {number} count @param {(made: number) => void} progress @returns {Promise<Blob>} zip file
   */
  renderVariations(count, progress) {
    const seed = this.seed ?? Math.floor(Math.random() * 1e6);
    return renderVariations(this.map, this.model, { seed, count, progress });
  }

  /**
   * A picture of the selected thing and what is around it in one of its looks.
   * @param {number} look @param {AbortSignal} signal @returns {Promise<Blob> | null}
   */
  thumbnail(look, signal) {
    const { selection, map } = this;
    const bounds = selection === null ? null : map.boundsOf(selection);
    if (!bounds || selection === null) return null;
    const { multiple } = this.model;
    const side = Math.max(bounds.width, bounds.height) * (1 + 2 * THUMBNAIL_MARGIN);
    const fit = Math.max(4 * multiple, Math.ceil(side / multiple) * multiple);
    /** @param {number} start @param {number} length @param {number} all */
    const window = (start, length, all) => {
      const size = Math.min(fit, Math.floor(all / multiple) * multiple);
      const first = Math.round(start + length / 2 - size / 2);
      return { first: Math.max(0, Math.min(all - size, first)), size };
    };
    const x = window(bounds.left, bounds.width, map.width), y = window(bounds.top, bounds.height, map.height);
    const part = map.copy({ left: x.first, top: y.first, width: x.size, height: y.size });
    const looks = this.#looksOn(part).set(selection, look);
    return synthesize(part, this.model, { seed: this.seed, looks, signal });
  }
}
