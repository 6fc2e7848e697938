// @ts-check
import { fetchModel, fetchSample } from "./api.js";
import { loadLink } from "./scene.js";
import { Studio } from "./studio.js";
import { show } from "./ui.js";

const status = /** @type {HTMLElement} */ (document.getElementById("status"));
try {
  status.textContent = "Opening a street ...";
  const model = await fetchModel();
  const linked = await loadLink(location.hash);
  const studio = new Studio(model, linked ? linked.map : await fetchSample(model, 0));
  show(studio);
  if (linked) studio.openScene(linked);
  else studio.queue.request(false);
} catch (error) {
  status.classList.add("wrong");
  status.textContent = `The studio cannot begin: ${error instanceof Error ? error.message : error}`;
}
