// @ts-check
/** The page: its elements call the studio, and show what it says. */

import { fetchSample } from "./api.js";
import { FileError, readMaps } from "./files.js";
import { encode } from "./png.js";
import { load, save, saveLink } from "./scene.js";
import { MapImage, View, Viewport } from "./view.js";

/** @typedef {import("./studio.js").Studio} Studio */
/** @typedef {import("./shapes.js").Point} Point */

const ICONS = {
  brush: "M4 20c3 0 5-1 5-4l9-10 2 2-10 9c-3 0-3 3-6 3z",
  eraser: "M4 15 14 5l6 6-9 9H8zM9 10l6 6",
  line: "M5 19 19 5",
  rectangle: "M4 6h16v12H4z",
  polygon: "M12 3l9 7-4 11H7L3 10z",
  bucket: "M5 11 12 4l7 7-7 7zM19 14c2 3 2 4 0 5-2-1-2-2 0-5",
  pick: "M14 4l6 6-3 1-7 7H6v-4l7-7z",
  select: "M5 3l13 8-6 1-3 6z",
};
const LAYOUTS = /** @type {const} */ (["both", "slider", "map", "picture"]);
const TURN = 1.15;

/** @param {string} id @returns {any} */
const element = (id) => document.getElementById(id);

/** Show a studio on the page. @param {Studio} studio */
export function show(studio) {
  const viewport = new Viewport(studio.map.width, studio.map.height);
  const canvas = /** @type {HTMLCanvasElement} */ (element("stage"));
  const view = new View(canvas, viewport);
  const colours = new Map(studio.model.schema.labels.map(({ id, colour }) => [id, colour]));
  const divisor = studio.model.schema.instance_divisor ?? 1000;
  const renew = () => {
    view.mapImage = new MapImage(studio.map, colours, divisor);
    Object.assign(viewport, new Viewport(studio.map.width, studio.map.height));
    view.picture = null;
  };
  renew();
  const pointer = new Pointer(studio, view);
  view.overlay = (context, pane) => pointer.drawOverlay(context, pane);
  showTools(studio);
  showClasses(studio);
  showObject(studio);
  showLayouts(view);
  bindBar(studio, view);
  bindFiles(studio);
  bindMenus();
  bindKeys(studio, view, pointer);
  studio.listen(async (event, change) => {
    if (event === "size") renew();
    if (event === "map") {
      view.mapImage?.refresh(change);
      element("undo").disabled = !studio.history.canUndo;
      element("redo").disabled = !studio.history.canRedo;
    }
    if (event === "picture" && studio.picture) {
      const picture = await createImageBitmap(studio.picture);
      view.picture?.close();
      view.picture = picture;
    }
    if (event === "busy" || event === "picture") showStatus(studio);
    view.draw();
  });
  element("undo").disabled = element("redo").disabled = true;
  element("scene").hidden = !studio.model.looks.size;
  view.draw();
}

/** @param {Studio} studio */
function showStatus(studio) {
  const status = element("status");
  status.classList.toggle("wrong", Boolean(studio.problem));
  const { width, height } = studio.map;
  status.textContent = studio.problem || (studio.isBusy ? "Rendering ..." : `${width} x ${height}`);
}

/** The pointer, pen, fingers and the keyboard's brush on the stage. */
class Pointer {
  /** @type {Point | null} */
  cursor = null;
  isDown = false;
  /** @type {Map<number, Point>} */
  #fingers = new Map();
  /** @type {Point | null} */
  #panFrom = null;

  /** @param {Studio} studio @param {View} view */
  constructor(studio, view) {
    this.studio = studio;
    this.view = view;
    const { canvas } = view;
    canvas.addEventListener("pointerdown", (event) => this.#down(event));
    canvas.addEventListener("pointermove", (event) => this.#move(event));
    for (const name of ["pointerup", "pointercancel"]) {
      canvas.addEventListener(name, (event) => this.#up(/** @type {PointerEvent} */ (event)));
    }
    canvas.addEventListener("pointerleave", () => {
      if (!this.isDown) this.cursor = null;
      view.draw();
    });
    canvas.addEventListener("dblclick", () => studio.finish());
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      const at = { x: event.offsetX, y: event.offsetY };
      view.viewport.zoomAt(view.paneAt(at), at, event.deltaY < 0 ? TURN : 1 / TURN);
      view.draw();
    }, { passive: false });
  }

  /** @param {PointerEvent} event */
  #scene(event) {
    const at = { x: event.offsetX, y: event.offsetY };
    return this.view.viewport.toScene(this.view.paneAt(at), at);
  }

  /** @param {PointerEvent} event */
  #down(event) {
    this.view.canvas.setPointerCapture(event.pointerId);
    this.#fingers.set(event.pointerId, { x: event.offsetX, y: event.offsetY });
    if (this.#fingers.size === 2 || event.button === 1 || event.shiftKey) {
      // Two fingers move the view: what the first began is given up.
      if (this.isDown) this.studio.up(this.#scene(event));
      this.isDown = false;
      this.#panFrom = { x: event.offsetX, y: event.offsetY };
      return;
    }
    if (event.button !== 0) return;
    this.isDown = true;
    this.cursor = this.#scene(event);
    this.studio.down(this.cursor);
  }

  /** @param {PointerEvent} event */
  #move(event) {
    const at = { x: event.offsetX, y: event.offsetY };
    const before = this.#fingers.get(event.pointerId);
    if (this.#panFrom && before) {
      this.#pan(event.pointerId, before, at);
      return;
    }
    for (const each of event.getCoalescedEvents?.() ?? [event]) {
      this.cursor = this.#scene(each);
      if (this.isDown) this.studio.move(this.cursor);
    }
    this.cursor = this.#scene(event);
    this.view.draw();
  }

  /** @param {number} finger @param {Point} before @param {Point} at */
  #pan(finger, before, at) {
    const { view } = this;
    const pane = view.paneAt(at);
    const others = [...this.#fingers].filter(([id]) => id !== finger).map(([, point]) => point);
    if (others.length) {
      /** @param {Point} point */
      const reach = (point) => Math.hypot(point.x - others[0].x, point.y - others[0].y);
      view.viewport.zoomAt(pane, at, reach(at) / Math.max(1, reach(before)));
    }
    const scale = view.viewport.scale(pane) * (others.length ? 2 : 1);
    view.viewport.pan((before.x - at.x) / scale, (before.y - at.y) / scale);
    this.#fingers.set(finger, at);
    view.draw();
  }

  /** @param {PointerEvent} event */
  #up(event) {
    this.#fingers.delete(event.pointerId);
    if (!this.#fingers.size) this.#panFrom = null;
    if (!this.isDown) return;
    this.isDown = false;
    this.studio.up(this.#scene(event));
    if (event.pointerType !== "mouse") this.cursor = null;
  }

  /** Move the keyboard's brush. @param {number} dx  steps @param {number} dy @param {boolean} far */
  step(dx, dy, far) {
    const { map, size } = this.studio;
    const length = Math.max(1, size / 4) * (far ? 8 : 1);
    const from = this.cursor ?? { x: map.width / 2, y: map.height / 2 };
    this.cursor = {
      x: Math.max(0, Math.min(map.width - 1, from.x + dx * length)),
      y: Math.max(0, Math.min(map.height - 1, from.y + dy * length)),
    };
    if (this.isDown) this.studio.move(this.cursor);
    this.view.draw();
  }

  /** Lower or lift the keyboard's brush. */
  press() {
    this.cursor ??= { x: this.studio.map.width / 2, y: this.studio.map.height / 2 };
    this.isDown = !this.isDown;
    if (this.isDown) this.studio.down(this.cursor);
    else this.studio.up(this.cursor);
  }

  /** @param {CanvasRenderingContext2D} context @param {import("./view.js").Rectangle} pane */
  drawOverlay(context, pane) {
    const { studio, view, cursor } = this;
    const scale = view.viewport.scale(pane);
    context.lineWidth = 1.5;
    const outline = studio.outline();
    if (outline.length) {
      context.beginPath();
      for (const corner of [...outline, ...(studio.tool === "polygon" && cursor ? [cursor] : [])]) {
        const { x, y } = view.viewport.toScreen(pane, corner);
        context.lineTo(x, y);
      }
      strokeTwice(context);
    }
    const bounds = studio.selection === null ? null : studio.map.boundsOf(studio.selection);
    if (bounds) {
      const { x, y } = view.viewport.toScreen(pane, { x: bounds.left, y: bounds.top });
      context.setLineDash([5, 4]);
      context.beginPath();
      context.rect(x - 3, y - 3, bounds.width * scale + 6, bounds.height * scale + 6);
      strokeTwice(context);
      context.setLineDash([]);
    }
    if (cursor) {
      const { x, y } = view.viewport.toScreen(pane, cursor);
      const radius = ["brush", "eraser", "line"].includes(studio.tool) ? (studio.size / 2) * scale : 3;
      context.beginPath();
      context.arc(x, y, Math.max(2, radius), 0, 2 * Math.PI);
      strokeTwice(context);
    }
  }
}

/** A line that is seen on every ground. @param {CanvasRenderingContext2D} context */
function strokeTwice(context) {
  context.strokeStyle = "#000a";
  context.lineWidth = 3;
  context.stroke();
  context.strokeStyle = "#fff";
  context.lineWidth = 1.5;
  context.stroke();
}

/** @param {Studio} studio */
function showTools(studio) {
  const box = element("tools");
  const tools = [...studio.tools.values(),
    { name: "pick", key: "i", hint: "Take a class from the map" },
    { name: "select", key: "v", hint: "Select a thing: drag moves it" }];
  for (const { name, key, hint } of tools) {
    const button = document.createElement("button");
    const label = name[0].toUpperCase() + name.slice(1);
    const path = ICONS[/** @type {keyof typeof ICONS} */ (name)];
    button.innerHTML = `<svg viewBox="0 0 24 24" aria-hidden="true"><path d="${path}"/></svg>`;
    button.title = `${label} (${key.toUpperCase()}): ${hint}`;
    button.setAttribute("aria-label", label);
    button.dataset.tool = name;
    button.addEventListener("click", () => studio.chooseTool(name));
    box.append(button);
  }
  const update = () => {
    for (const button of box.children) {
      button.setAttribute("aria-pressed", String(button.dataset.tool === studio.tool));
    }
    element("size").value = String(studio.size);
  };
  studio.listen((event) => event === "tool" && update());
  update();
}

/** @param {Studio} studio */
function showClasses(studio) {
  const box = element("classes"), search = element("search");
  const there = new Set(studio.map.labels);
  // The classes of the scene first: they are the ones that the model draws well.
  const labels = [...studio.model.schema.labels].sort(
    (a, b) => Number(there.has(b.id)) - Number(there.has(a.id)) || a.name.localeCompare(b.name),
  );
  for (const { id, name, colour } of labels) {
    const option = document.createElement("div");
    option.setAttribute("role", "option");
    option.id = `class-${id}`;
    option.dataset.name = name.toLowerCase();
    const chip = document.createElement("i");
    chip.style.background = `rgb(${colour.join(" ")})`;
    option.append(chip, name);
    option.addEventListener("click", () => studio.chooseClass(id));
    box.append(option);
  }
  const update = () => {
    for (const option of box.children) {
      option.setAttribute("aria-selected", String(option.id === `class-${studio.label}`));
    }
    box.setAttribute("aria-activedescendant", `class-${studio.label}`);
  };
  search.addEventListener("input", () => {
    const wanted = search.value.trim().toLowerCase();
    for (const option of box.children) option.hidden = !option.dataset.name.includes(wanted);
  });
  search.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
    const first = [...box.children].find((option) => !option.hidden);
    if (event.key === "Enter" && first) first.click();
  });
  moveByArrows(box);
  studio.listen((event) => event === "class" && update());
  update();
}

/** Arrow keys choose the option before or after. @param {HTMLElement} box */
function moveByArrows(box) {
  box.addEventListener("keydown", (event) => {
    const step = { ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    event.stopPropagation();
    const options = /** @type {HTMLElement[]} */ ([...box.children]).filter((o) => !o.hidden);
    const at = options.findIndex((option) => option.getAttribute("aria-selected") === "true");
    const next = options[Math.max(0, Math.min(options.length - 1, at + step))];
    next?.click();
    next?.scrollIntoView({ block: "nearest" });
  });
}

/** @param {Studio} studio */
function showObject(studio) {
  const box = element("looks");
  /** @type {AbortController | null} */
  let filling = null;
  const mark = () => {
    const chosen = studio.selection === null ? undefined : studio.looks.get(studio.selection);
    for (const option of box.children) {
      option.setAttribute("aria-selected", String(Number(option.dataset.look) === chosen));
    }
  };
  const fill = async () => {
    filling?.abort();
    for (const image of box.querySelectorAll("img")) URL.revokeObjectURL(image.src);
    box.replaceChildren();
    const { selection, selectedLabel } = studio;
    element("object").hidden = selection === null;
    if (selection === null || selectedLabel === null) return;
    const name = studio.model.schema.labels.find((label) => label.id === selectedLabel)?.name;
    element("object-name").textContent = `${name} ${selection % (studio.model.schema.instance_divisor ?? 1000)}`;
    const looks = studio.selectedLooks;
    box.hidden = element("look-actions").hidden = !looks;
    const here = new AbortController();
    filling = here;
    const images = Array.from({ length: looks }, (_, look) => {
      const option = document.createElement("div");
      option.setAttribute("role", "option");
      option.dataset.look = String(look);
      const image = document.createElement("img");
      image.alt = `Look ${look + 1}`;
      option.append(image);
      option.addEventListener("click", () => studio.giveLook([selection], look));
      box.append(option);
      return image;
    });
    mark();
    try {
      for (const [look, image] of images.entries()) {
        const picture = await studio.thumbnail(look, here.signal);
        if (picture && !here.signal.aborted) image.src = URL.createObjectURL(picture);
      }
    } catch (error) {
      if (!here.signal.aborted) studio.report(error);
    }
  };
  moveByArrows(box);
  studio.listen((event) => {
    if (event === "selection") void fill();
    if (event === "looks") mark();
  });
  element("delete").addEventListener("click", () => studio.deleteSelection());
  element("duplicate").addEventListener("click", () => studio.duplicateSelection());
  element("look-to-all").addEventListener("click", () => studio.giveLookToAll());
  element("shuffle-object").addEventListener("click", () => {
    const count = studio.selectedLooks;
    if (studio.selection === null || !count) return;
    const now = studio.looks.get(studio.selection) ?? 0;
    studio.giveLook([studio.selection], (now + 1 + Math.floor(Math.random() * (count - 1))) % count);
  });
  element("shuffle-scene").addEventListener("click", () => studio.giveSeed(Math.floor(Math.random() * 1e6)));
  element("default-looks").addEventListener("click", () => studio.giveSeed(null));
}

/** @param {View} view */
function showLayouts(view) {
  const box = element("layout");
  const choose = (/** @type {import("./view.js").Layout} */ layout) => {
    view.layout = layout;
    for (const button of box.querySelectorAll("button")) {
      button.setAttribute("aria-pressed", String(button.dataset.layout === layout));
    }
    element("share-label").hidden = layout !== "slider";
    view.draw();
  };
  for (const layout of LAYOUTS) {
    const button = document.createElement("button");
    button.textContent = { both: "Both", slider: "Slider", map: "Map", picture: "Picture" }[layout];
    button.dataset.layout = layout;
    button.addEventListener("click", () => choose(layout));
    box.append(button);
  }
  element("share").addEventListener("input", () => {
    view.share = Number(element("share").value) / 100;
    view.draw();
  });
  choose("both");
}

/** @param {Studio} studio @param {View} view */
function bindBar(studio, view) {
  const zoom = (/** @type {number} */ factor) => {
    const pane = view.paneAt({ x: 1, y: 1 });
    view.viewport.zoomAt(pane, { x: pane.left + pane.width / 2, y: pane.top + pane.height / 2 }, factor);
    view.draw();
  };
  element("size").addEventListener("input", () => studio.chooseSize(Number(element("size").value)));
  element("undo").addEventListener("click", () => studio.undo());
  element("redo").addEventListener("click", () => studio.redo());
  element("zoom-in").addEventListener("click", () => zoom(1.5));
  element("zoom-out").addEventListener("click", () => zoom(1 / 1.5));
  element("zoom-fit").addEventListener("click", () => zoom(1e-6));
  element("full").addEventListener("click", () => {
    if (document.fullscreenElement) void document.exitFullscreen();
    else void element("work").requestFullscreen();
  });
  element("help").addEventListener("click", () => element("help-sheet").showModal());
}

/** @param {Studio} studio */
function bindFiles(studio) {
  const file = element("file");
  const guarded = (/** @type {() => Promise<void>} */ act) => async () => {
    try {
      await act();
    } catch (error) {
      studio.report(error);
    }
  };
  /** @param {File[]} files */
  const open = async (files) => {
    const scene = files.find((each) => each.name.endsWith(".json"));
    try {
      if (scene) {
        studio.openScene(await load(await scene.text()));
      } else if (files.length) {
        const { map, report } = await readMaps(files, studio.model);
        studio.open(map);
        if (report) studio.report(report);
      }
    } catch (error) {
      const name = error instanceof FileError ? error.file : files[0].name;
      studio.report(`${name}: ${error instanceof Error ? error.message : error}`);
    }
  };
  element("open").addEventListener("click", () => file.click());
  file.addEventListener("change", () => void open([...file.files]).then(() => (file.value = "")));
  document.addEventListener("dragover", (event) => event.preventDefault());
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    void open([...(event.dataTransfer?.files ?? [])]);
  });
  let sample = 0;
  element("sample").addEventListener("click", guarded(async () => studio.open(await fetchSample(studio.model, ++sample))));
  element("save-scene").addEventListener("click", guarded(async () => {
    download(new Blob([await save(studio.scene)]), "scene.json");
  }));
  element("copy-link").addEventListener("click", guarded(async () => {
    location.hash = await saveLink(studio.scene);
    let said = "The address of this page now restores the scene";
    try {
      await navigator.clipboard.writeText(location.href);
      said += ", and is copied";
    } catch {
      // Without permission the address bar has to do.
    }
    element("status").textContent = said;
  }));
  const savePng = async (/** @type {Uint8Array | Uint16Array} */ values, /** @type {string} */ name) => {
    const bytes = await encode(values, studio.map.width, studio.map.height);
    download(new Blob([/** @type {BlobPart} */ (bytes)]), name);
  };
  element("save-map").addEventListener("click", guarded(() => savePng(studio.map.labels, "scene_labelIds.png")));
  element("save-instances").addEventListener("click", guarded(() =>
    savePng(Uint16Array.from(studio.map.instances), "scene_instanceIds.png")));
  element("variations").addEventListener("submit", (/** @type {SubmitEvent} */ event) => {
    event.preventDefault();
    const button = element("variations").querySelector("button"), words = button.textContent;
    const count = Number(element("count").value);
    const act = guarded(async () => {
      /** @param {number} made */
      const progress = (made) => (button.textContent = `${made} of ${count} ...`);
      progress(0);
      download(await studio.renderVariations(count, progress), "pictures.zip");
    });
    button.disabled = true;
    void act().finally(() => {
      button.disabled = false;
      button.textContent = words;
    });
  });
  element("save-picture").addEventListener("click", guarded(async () =>
    download(await studio.renderFile("image/png"), "scene.png")));
}

/** @param {Blob} blob @param {string} name */
function download(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

/** A menu closes once something in it is chosen, and when the page beside it is clicked. */
function bindMenus() {
  document.addEventListener("click", (event) => {
    for (const menu of document.querySelectorAll("details[open]")) {
      const summary = menu.querySelector("summary");
      if (!summary?.contains(/** @type {Node} */ (event.target))) menu.removeAttribute("open");
    }
  });
}

/** @param {Studio} studio @param {View} view @param {Pointer} pointer */
function bindKeys(studio, view, pointer) {
  /** @type {[string, string, (event: KeyboardEvent) => void][]} */
  const keys = [
    ...[...studio.tools.values()].map((tool) => /** @type {[string, string, () => void]} */ (
      [tool.key, tool.name, () => studio.chooseTool(tool.name)])),
    ["i", "pick a class", () => studio.chooseTool("pick")],
    ["v", "select a thing", () => studio.chooseTool("select")],
    ["[", "smaller brush", () => studio.chooseSize(studio.size - 4)],
    ["]", "larger brush", () => studio.chooseSize(studio.size + 4)],
    ["Ctrl+z", "undo", () => studio.undo()],
    ["Ctrl+Z", "redo (with Shift)", () => studio.redo()],
    ["Ctrl+d", "duplicate", () => studio.duplicateSelection()],
    ["Delete", "delete the selected thing", () => studio.deleteSelection()],
    ["Enter", "close a polygon", () => studio.finish()],
    ["Escape", "give up", () => studio.cancel()],
    ["+", "zoom in", () => element("zoom-in").click()],
    ["-", "zoom out", () => element("zoom-out").click()],
    ["0", "whole scene", () => element("zoom-fit").click()],
    ["/", "find a class", () => element("search").focus()],
    ["?", "this sheet", () => element("help-sheet").showModal()],
  ];
  const stageKeys = [
    ["Arrows", "move the brush on the stage; with Shift far"],
    ["Space", "lower and lift the brush"],
  ];
  for (const [key, what] of [...keys, ...stageKeys]) {
    const term = document.createElement("dt"), text = document.createElement("dd");
    term.textContent = key === "Ctrl+Z" ? "Ctrl+Shift+z" : key;
    text.textContent = what;
    element("keys").append(term, text);
  }
  document.addEventListener("keydown", (event) => {
    const target = /** @type {HTMLElement} */ (event.target);
    if (target.matches("input[type=search], dialog *") || element("help-sheet").open) return;
    if (target === view.canvas) {
      const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
      if (step) pointer.step(step[0], step[1], event.shiftKey);
      else if (event.key === " ") pointer.press();
      if (step || event.key === " ") return event.preventDefault();
    } else if (target.matches("button, summary") && ["Enter", " "].includes(event.key)) {
      return;
    }
    const name = event.ctrlKey || event.metaKey ? `Ctrl+${event.key}` : event.key;
    const found = keys.find(([key]) => key === name);
    if (!found) return;
    event.preventDefault();
    found[2](event);
  });
}
