// @ts-check
/**
 * A label map and its instances as whole numbers, and the only way to change them: spans of a row
 * get one class and one instance, and the change says what was there, so that it can be undone.
 */

/**
 * Pixels of a row, from `start` to before `end`.
 * @typedef {{ y: number, start: number, end: number }} Span
 */

/**
 * What a change replaced, in runs of equal old values, and what it put there.
 *
 * @typedef {object} Change
 * @property {Int32Array} runs  [4 * N]: first pixel, length, old class, old instance
 * @property {Int32Array} news  [2 * N]: new class, new instance of each run
 */

export class LabelMap {
  /**
   * @param {number} width
   * @param {number} height
   * @param {number} label  class id everywhere at first
   */
  constructor(width, height, label) {
    this.width = width;
    this.height = height;
    /** Class id of each pixel. */
    this.labels = new Uint8Array(width * height).fill(label);
    /** Instance id of each pixel: the class id, or for countable things `class * divisor + n`. */
    this.instances = new Int32Array(width * height).fill(label);
  }

  /**
   * Give spans a class and an instance.
   * @param {Iterable<Span>} spans  they may overlap and reach beyond the map
   * @param {number} label
   * @param {number} instance
   * @returns {Change}
   */
  paint(spans, label, instance) {
    const runs = [];
    for (const { y, start, end } of spans) {
      if (y < 0 || y >= this.height) continue;
      const first = y * this.width + Math.max(start, 0);
      const last = y * this.width + Math.min(end, this.width);
      let at = first;
      while (at < last) {
        const oldLabel = this.labels[at], oldInstance = this.instances[at];
        const from = at;
        do at++;
        while (at < last && this.labels[at] === oldLabel && this.instances[at] === oldInstance);
        if (oldLabel === label && oldInstance === instance) continue;
        this.labels.fill(label, from, at);
        this.instances.fill(instance, from, at);
        runs.push(from, at - from, oldLabel, oldInstance);
      }
    }
    const news = new Int32Array(runs.length / 2);
    for (let i = 0; i < news.length; i += 2) news.set([label, instance], i);
    return { runs: Int32Array.from(runs), news };
  }

  /**
   * Give spans what another map of the same size has there.
   * @param {Iterable<Span>} spans
   * @param {LabelMap} other
   * @returns {Change}
   */
  restore(spans, other) {
    const changes = [];
    for (const { y, start, end } of spans) {
      if (y < 0 || y >= this.height) continue;
      const last = Math.min(end, this.width);
      let x = Math.max(start, 0);
      while (x < last) {
        const at = y * this.width + x;
        const label = other.labels[at], instance = other.instances[at];
        const from = x;
        do x++;
        while (x < last && other.labels[y * this.width + x] === label && other.instances[y * this.width + x] === instance);
        changes.push(this.paint([{ y, start: from, end: x }], label, instance));
      }
    }
    return joinChanges(changes);
  }

  /** A copy, of a part with the same scale or of every `step`th pixel. @param {{ left: number, top: number, width: number, height: number }} [part] @param {number} [step] */
  copy(part = { left: 0, top: 0, width: this.width, height: this.height }, step = 1) {
    const found = new LabelMap(Math.floor(part.width / step), Math.floor(part.height / step), 0);
    for (let y = 0; y < found.height; y++) {
      for (let x = 0; x < found.width; x++) {
        const from = (part.top + y * step) * this.width + part.left + x * step;
        found.labels[y * found.width + x] = this.labels[from];
        found.instances[y * found.width + x] = this.instances[from];
      }
    }
    return found;
  }

  /** Undo a change, the newest first. @param {Change} change */
  undo({ runs }) {
    // Later runs may lie on earlier ones.
    for (let i = runs.length - 4; i >= 0; i -= 4) {
      this.labels.fill(runs[i + 2], runs[i], runs[i] + runs[i + 1]);
      this.instances.fill(runs[i + 3], runs[i], runs[i] + runs[i + 1]);
    }
  }

  /** Make a change again. @param {Change} change */
  redo({ runs, news }) {
    for (let i = 0; i < runs.length; i += 4) {
      this.labels.fill(news[i / 2], runs[i], runs[i] + runs[i + 1]);
      this.instances.fill(news[i / 2 + 1], runs[i], runs[i] + runs[i + 1]);
    }
  }

  /**
   * The smallest rectangle with all pixels of an instance; null without one.
   * @param {number} instance
   */
  boundsOf(instance) {
    let left = this.width, right = -1, top = -1, bottom = -1;
    for (let y = 0; y < this.height; y++) {
      const row = this.instances.subarray(y * this.width, (y + 1) * this.width);
      const first = row.indexOf(instance);
      if (first < 0) continue;
      if (top < 0) top = y;
      bottom = y;
      left = Math.min(left, first);
      right = Math.max(right, row.lastIndexOf(instance));
    }
    return top < 0 ? null : { left, top, width: right - left + 1, height: bottom - top + 1 };
  }

  /**
   * The spans of an instance.
   * @param {number} instance
   * @returns {Span[]}
   */
  spansOf(instance) {
    const spans = [];
    const bounds = this.boundsOf(instance);
    for (let y = bounds?.top ?? 0; bounds && y < bounds.top + bounds.height; y++) {
      let start = -1;
      for (let x = bounds.left; x <= bounds.left + bounds.width; x++) {
        const inside = x < bounds.left + bounds.width && this.instances[y * this.width + x] === instance;
        if (inside && start < 0) start = x;
        if (!inside && start >= 0) {
          spans.push({ y, start, end: x });
          start = -1;
        }
      }
    }
    return spans;
  }

  /** All instance ids of the map. @returns {Set<number>} */
  instanceIds() {
    const found = new Set();
    let before = NaN;
    for (const id of this.instances) {
      if (id !== before) found.add(id);
      before = id;
    }
    return found;
  }
}

/** One change out of several, made one after the other. @param {Change[]} changes @returns {Change} */
export function joinChanges(changes) {
  const runs = new Int32Array(changes.reduce((sum, c) => sum + c.runs.length, 0));
  const news = new Int32Array(runs.length / 2);
  let at = 0;
  for (const change of changes) {
    runs.set(change.runs, at);
    news.set(change.news, at / 2);
    at += change.runs.length;
  }
  return { runs, news };
}
