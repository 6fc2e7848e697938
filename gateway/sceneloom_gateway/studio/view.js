// @ts-check
/**
 * The map and the picture on the screen. One `Viewport` says which part of the scene is seen; panes
 * show that part of the map or of the picture, so that both always lie on each other.
 */

/** @typedef {import("./label-map.js").LabelMap} LabelMap */
/** @typedef {import("./label-map.js").Change} Change */
/** @typedef {import("./shapes.js").Point} Point */
/** @typedef {{ left: number, top: number, width: number, height: number }} Rectangle */

const LITTLE_ENDIAN = new Uint8Array(Uint32Array.of(1).buffer)[0] === 1;

/** A map in its classes' colours, kept as pixels and brought up to date change by change. */
export class MapImage {
  /**
   * @param {LabelMap} map
   * @param {Map<number, [number, number, number]>} colours  class id -> RGB
   * @param {number} divisor  instance ids are `class * divisor + n`
   */
  constructor(map, colours, divisor) {
    this.map = map;
    this.divisor = divisor;
    this.canvas = new OffscreenCanvas(map.width, map.height);
    this.#context = /** @type {OffscreenCanvasRenderingContext2D} */ (this.canvas.getContext("2d"));
    this.#colours = colours;
    this.refresh();
  }

  #context;
  #colours;
  /** @type {Map<number, number>} */
  #packed = new Map();

  /** The packed colour of a pixel: things of one class differ a little in brightness. @param {number} at */
  #colour(at) {
    const instance = this.map.instances[at];
    const label = this.map.labels[at];
    const key = instance * 256 + label;
    let packed = this.#packed.get(key);
    if (packed === undefined) {
      const shade = instance >= this.divisor ? (((instance % this.divisor) * 53) % 60) - 15 : 0;
      const [r, g, b] = (this.#colours.get(label) ?? [0, 0, 0]).map((v) =>
        Math.max(0, Math.min(255, v + shade)),
      );
      packed = LITTLE_ENDIAN ? (255 << 24) | (b << 16) | (g << 8) | r : (r << 24) | (g << 16) | (b << 8) | 255;
      this.#packed.set(key, packed);
    }
    return packed;
  }

  /** Draw again what a change touched, or without one everything. @param {Change} [change] */
  refresh(change) {
    const { width, height } = this.map;
    let first = 0, last = width * height - 1;
    if (change) {
      const { runs } = change;
      if (!runs.length) return;
      first = Infinity;
      last = 0;
      for (let i = 0; i < runs.length; i += 4) {
        first = Math.min(first, runs[i]);
        last = Math.max(last, runs[i] + runs[i + 1] - 1);
      }
    }
    const top = Math.floor(first / width), rows = Math.floor(last / width) - top + 1;
    const image = new ImageData(width, rows);
    const pixels = new Int32Array(image.data.buffer);
    for (let i = 0; i < pixels.length; i++) pixels[i] = this.#colour(top * width + i);
    this.#context.putImageData(image, 0, top);
  }
}

/** Which part of the scene a pane shows: scale and the scene's point in its middle. */
export class Viewport {
  /** @param {number} width  of the scene, in its pixels @param {number} height */
  constructor(width, height) {
    this.width = width;
    this.height = height;
    /** Times larger than fitting the pane. */
    this.zoom = 1;
    this.middle = { x: width / 2, y: height / 2 };
  }

  /** Screen pixels for each of the scene's. @param {Rectangle} pane */
  scale(pane) {
    return Math.min(pane.width / this.width, pane.height / this.height) * this.zoom;
  }

  /** The scene's point below a screen's. @param {Rectangle} pane @param {Point} screen @returns {Point} */
  toScene(pane, screen) {
    const scale = this.scale(pane);
    return {
      x: (screen.x - pane.left - pane.width / 2) / scale + this.middle.x,
      y: (screen.y - pane.top - pane.height / 2) / scale + this.middle.y,
    };
  }

  /** The screen's point over a scene's. @param {Rectangle} pane @param {Point} scene @returns {Point} */
  toScreen(pane, scene) {
    const scale = this.scale(pane);
    return {
      x: (scene.x - this.middle.x) * scale + pane.left + pane.width / 2,
      y: (scene.y - this.middle.y) * scale + pane.top + pane.height / 2,
    };
  }

  /** Zoom about a point of the screen, which keeps its place. @param {Rectangle} pane @param {Point} screen @param {number} factor */
  zoomAt(pane, screen, factor) {
    const before = this.toScene(pane, screen);
    this.zoom = Math.max(1, Math.min(32, this.zoom * factor));
    const after = this.toScene(pane, screen);
    this.pan(before.x - after.x, before.y - after.y);
  }

  /** Move the seen part, in the scene's pixels. @param {number} dx @param {number} dy */
  pan(dx, dy) {
    this.middle.x = Math.max(0, Math.min(this.width, this.middle.x + dx));
    this.middle.y = Math.max(0, Math.min(this.height, this.middle.y + dy));
    if (this.zoom === 1) this.middle = { x: this.width / 2, y: this.height / 2 };
  }
}

/** @typedef {"both" | "slider" | "map" | "picture"} Layout */

/** Draws panes onto a canvas element, at most once a frame. */
export class View {
  /** @type {MapImage | null} */
  mapImage = null;
  /** @type {ImageBitmap | null} */
  picture = null;
  /** @type {Layout} */
  layout = "both";
  /** Share of the map in the layout `slider`, 0..1. */
  share = 0.5;
  /** Draws what lies on the panes, such as the brush. @type {(context: CanvasRenderingContext2D, pane: Rectangle) => void} */
  overlay = () => {};

  #waiting = false;

  /** @param {HTMLCanvasElement} canvas @param {Viewport} viewport */
  constructor(canvas, viewport) {
    this.canvas = canvas;
    this.viewport = viewport;
    this.context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
    new ResizeObserver(() => this.draw()).observe(canvas);
  }

  /** Panes by what they show, in pixels of the page from the canvas's corner. */
  panes() {
    const { clientWidth: width, clientHeight: height } = this.canvas;
    const whole = { left: 0, top: 0, width, height };
    if (this.layout === "map") return { map: whole };
    if (this.layout === "picture") return { picture: whole };
    if (this.layout === "slider") return { map: whole, picture: whole };
    const gap = 8;
    const { width: wide, height: high } = this.viewport;
    const beside = Math.min((width - gap) / 2 / wide, height / high);
    const below = Math.min(width / wide, (height - gap) / 2 / high);
    if (beside > below) {
      const half = (width - gap) / 2;
      return { map: { ...whole, width: half }, picture: { ...whole, left: half + gap, width: half } };
    }
    const half = (height - gap) / 2;
    return { map: { ...whole, height: half }, picture: { ...whole, top: half + gap, height: half } };
  }

  /** The pane at a point of the canvas. @param {Point} screen @returns {Rectangle} */
  paneAt(screen) {
    const panes = Object.values(this.panes());
    const inside = panes.find(
      (p) => screen.x >= p.left && screen.y >= p.top && screen.x < p.left + p.width && screen.y < p.top + p.height,
    );
    return inside ?? panes[0];
  }

  /** Draw in the next frame. */
  draw() {
    if (this.#waiting) return;
    this.#waiting = true;
    requestAnimationFrame(() => {
      this.#waiting = false;
      this.#draw();
    });
  }

  #draw() {
    const { canvas, context } = this;
    const ratio = window.devicePixelRatio || 1;
    const width = Math.round(canvas.clientWidth * ratio), height = Math.round(canvas.clientHeight * ratio);
    if (canvas.width !== width || canvas.height !== height) {
      canvas.width = width;
      canvas.height = height;
    }
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, canvas.clientWidth, canvas.clientHeight);
    const { map, picture } = this.panes();
    if (picture && this.picture) this.#drawPane(picture, this.picture, true);
    if (map && this.mapImage) {
      const clip = this.layout === "slider" ? { ...map, width: map.width * this.share } : map;
      this.#drawPane(map, this.mapImage.canvas, false, clip);
    }
  }

  /**
   * @param {Rectangle} pane
   * @param {CanvasImageSource} image
   * @param {boolean} smooth
   * @param {Rectangle} clip
   */
  #drawPane(pane, image, smooth, clip = pane) {
    const { context, viewport } = this;
    const scale = viewport.scale(pane);
    const corner = viewport.toScreen(pane, { x: 0, y: 0 });
    context.save();
    context.beginPath();
    context.rect(clip.left, clip.top, clip.width, clip.height);
    context.clip();
    context.imageSmoothingEnabled = smooth || scale < 1;
    context.imageSmoothingQuality = "high";
    context.drawImage(image, corner.x, corner.y, viewport.width * scale, viewport.height * scale);
    context.restore();
    context.save();
    context.beginPath();
    context.rect(pane.left, pane.top, pane.width, pane.height);
    context.clip();
    this.overlay(context, pane);
    context.restore();
  }
}
