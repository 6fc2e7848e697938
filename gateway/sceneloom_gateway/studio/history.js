// @ts-check
/** Undo and redo without a limit: every step is something that can be taken back and made again. */

/**
 * One step of a person's work.
 * @typedef {object} Step
 * @property {() => void} undo
 * @property {() => void} redo
 */

export class History {
  /** @type {Step[]} */
  #done = [];
  /** @type {Step[]} */
  #undone = [];

  /** Note a step that was just made. @param {Step} step */
  push(step) {
    this.#done.push(step);
    this.#undone = [];
  }

  /** Take back the last step; false if there is none. */
  undo() {
    const step = this.#done.pop();
    if (!step) return false;
    step.undo();
    this.#undone.push(step);
    return true;
  }

  /** Make the last undone step again; false if there is none. */
  redo() {
    const step = this.#undone.pop();
    if (!step) return false;
    step.redo();
    this.#done.push(step);
    return true;
  }

  get canUndo() {
    return this.#done.length > 0;
  }

  get canRedo() {
    return this.#undone.length > 0;
  }

  clear() {
    this.#done = [];
    this.#undone = [];
  }
}
