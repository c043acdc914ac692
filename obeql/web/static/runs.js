// The history: all runs of the database, of which only those in view have rows.

import { get } from "./api.js";
import { byId, count, duration, fileName, later, make } from "./dom.js";
import { thumb } from "./thumbs.js";

const ROW_PX = 88;
const PAGE = 50;

export default class Runs {
  static html = `
      <div class="line"><h1>Runs</h1><span id="runs-count" class="time"></span><input type="search" id="runs-words" placeholder="Name, model or statement" aria-label="Filter the runs"></div>
      <div id="runs" class="virtual" tabindex="0" role="list" aria-label="Runs, newest first"></div>`;

  /** @param {import("./main.js").Page} page */
  constructor(page) {
    this.page = page;
    this.home = byId("runs");
    this.inner = this.home.appendChild(make("div", { className: "inner" }));
    /** @type {Map<number, any>} */ this.rows = new Map();
    /** @type {Map<number, HTMLElement>} */ this.shown = new Map();
    /** @type {Set<number>} */ this.asked = new Set();
    this.total = 0;
    this.home.addEventListener("scroll", () => this.draw());
    new ResizeObserver(() => this.draw()).observe(this.home);
    byId("runs-words").addEventListener("input", later(200, () => this.reload()));
  }

  /** What of it stands in the address. */
  get facts() {
    return {};
  }

  open() {
    return this.reload();
  }

  /** Ask anew, from the first row. */
  async reload() {
    this.rows.clear();
    this.asked.clear();
    for (const row of this.shown.values()) row.remove();
    this.shown.clear();
    this.total = 0;
    this.home.dataset.state = "asking";
    await this._fetch(0);
    this.home.dataset.state = "done";
  }

  async _fetch(page) {
    if (this.asked.has(page)) return;
    this.asked.add(page);
    const words = byId("runs-words").value || null;
    try {
      const found = await get("/api/runs", { start: page * PAGE, most: PAGE, words });
      if (words !== (byId("runs-words").value || null)) return;
      if (found.runs.length || page === 0) this.total = found.total;
      found.runs.forEach((run, i) => this.rows.set(page * PAGE + i, run));
      byId("runs-count").textContent = count(this.total, "run");
      this.draw();
    } catch (error) {
      this.asked.delete(page);
      this.page.trouble(error.message);
    }
  }

  /** Draw the rows that are in view, and ask for those that are missing. */
  draw() {
    const { home, inner, total } = this;
    inner.style.height = `${Math.max(1, total) * ROW_PX}px`;
    const first = Math.max(0, Math.floor(home.scrollTop / ROW_PX) - 3);
    const last = Math.min(total - 1, Math.ceil((home.scrollTop + home.clientHeight) / ROW_PX) + 3);
    for (const [place, row] of this.shown)
      if (place < first || place > last) {
        row.remove();
        this.shown.delete(place);
      }
    for (let place = first; place <= last; place++) {
      const run = this.rows.get(place);
      if (!run) this._fetch(Math.floor(place / PAGE));
      else if (!this.shown.has(place)) {
        const row = this._row(run);
        row.style.top = `${place * ROW_PX}px`;
        this.shown.set(place, row);
        inner.append(row);
      }
    }
  }

  _row(run) {
    const key = run.map_id === null ? null : `${run.map_id}-${run.image_id}`;
    const facts = [
      run.model, `${count(run.n_maps, "map")}${run.n_images > 1 ? ` of ${count(run.n_images, "image")}` : run.image ? ` of ${fileName(run.image)}` : ""}`,
      run.seconds === null ? "" : duration(Number(run.seconds)), run.bound === null ? "" : `${(run.metric ?? "ssim").toUpperCase()} ≥ ${Math.floor(run.bound * 1000) / 1000}`,
      run.started_at ? ago(run.started_at) : "",
    ].filter(Boolean);
    const named = run.run_name ?? `Run ${run.run_id}`;
    return make("div", { className: "run-row", role: "listitem", data: { run: run.run_id } },
      key ? thumb(run.run_id, key, run.image_id) : make("span", { className: "thumb empty" }),
      make("div", { className: "what" },
        make("a", { href: `?view=explain&run=${run.run_id}`, on: { click: (event) => { event.preventDefault(); this.page.open(run.run_id, key); } } }, named),
        make("span", { className: `status s-${run.status}` }, run.status === "done" ? "" : run.status),
        make("code", { title: run.query }, run.query),
        make("span", { className: "time" }, facts.join(" · "))),
      make("div", { className: "do" },
        make("button", { type: "button", className: "plain", disabled: !key, aria: { label: `Compare ${named}` }, on: { click: () => this.page.compare(`${run.run_id}/${key}`) } }, "Compare"),
        make("button", { type: "button", className: "plain", disabled: !key, aria: { label: `Figure grid of ${named}` }, on: { click: () => this.page.sheet(run.run_id) } }, "Figure grid")));
  }
}

/** How long ago a time of the database, in UTC, is. @param {string} text */
function ago(text) {
  const seconds = (Date.now() - Date.parse(`${text}Z`)) / 1000;
  if (!(seconds >= 0)) return "";
  if (seconds < 60) return "just now";
  if (seconds < 3600) return `${Math.round(seconds / 60)} min ago`;
  if (seconds < 86400) return `${Math.round(seconds / 3600)} h ago`;
  return new Date(Date.parse(`${text}Z`)).toLocaleDateString("en", { year: "numeric", month: "short", day: "numeric" });
}
