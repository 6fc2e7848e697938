// @ts-check
/**
 * The newest state is rendered, and nothing older: a request that is no longer wanted is cancelled,
 * and while somebody draws, pictures are small.
 */

/**
 * @template Picture
 * @typedef {(draft: boolean, signal: AbortSignal) => Promise<Picture>} Render
 */

/** @template Picture */
export class RenderQueue {
  /** @type {AbortController | null} */
  #running = null;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #timer;
  #wanted = false;
  #drawing = false;

  /**
   * @param {object} options
   * @param {Render<Picture>} options.render  requests one picture; rejects with AbortError when cancelled
   * @param {(picture: Picture, draft: boolean) => void} options.show
   * @param {(error: unknown) => void} options.fail
   * @param {(busy: boolean) => void} [options.busy]
   * @param {number} [options.still]  milliseconds without a change before a picture of full size
   */
  constructor({ render, show, fail, busy = () => {}, still = 40 }) {
    this.render = render;
    this.show = show;
    this.fail = fail;
    this.busy = busy;
    this.still = still;
  }

  /** Ask for a picture of the present state. @param {boolean} drawing  more changes are to come */
  request(drawing) {
    this.#drawing = drawing;
    this.#wanted = true;
    clearTimeout(this.#timer);
    if (drawing) {
      // Drafts follow one another: cancelling each by the next would show none.
      if (!this.#running) void this.#run(true);
    } else {
      this.#running?.abort();
      this.#timer = setTimeout(() => void this.#run(false), this.still);
    }
  }

  /** Cancel what is asked for. */
  cancel() {
    clearTimeout(this.#timer);
    this.#wanted = false;
    this.#running?.abort();
  }

  /** @param {boolean} draft */
  async #run(draft) {
    const running = new AbortController();
    this.#running = running;
    this.#wanted = false;
    this.busy(true);
    try {
      const picture = await this.render(draft, running.signal);
      if (!running.signal.aborted) this.show(picture, draft);
    } catch (error) {
      if (!running.signal.aborted) this.fail(error);
    }
    if (this.#running !== running) return;
    this.#running = null;
    if (this.#wanted && this.#drawing) void this.#run(true);
    else this.busy(false);
  }
}
