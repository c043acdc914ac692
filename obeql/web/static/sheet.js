// The maps of a run as a sheet, sorted and filtered by SQL expressions, which are shown as the query they make.

import { get } from "./api.js";
import { byId, fileName, make, short } from "./dom.js";
import { thumb } from "./thumbs.js";

const PAGE = 200;

export default class Sheet {
  static html = `
      <div class="line"><h1 id="sheet-title">Figure grid</h1><span id="sheet-count" class="time" role="status"></span></div>
      <form id="sheet-form" class="sheet-form">
        <label for="sheet-preset">Sort by</label>
        <div><select id="sheet-preset"></select><label class="check"><input type="checkbox" id="sheet-up"> smallest first</label></div>
        <label for="sheet-order">as SQL over <code>heatmaps</code></label>
        <input id="sheet-order" spellcheck="false" autocomplete="off">
        <label for="sheet-where">where</label>
        <input id="sheet-where" spellcheck="false" autocomplete="off" placeholder="label = 'glioma' AND clean_score > 0.5">
        <span></span><div><button type="submit">Apply</button><button type="button" id="sheet-to-sql" class="plain">Open as SQL</button></div>
      </form>
      <details><summary>The query</summary><pre id="sheet-sql" tabindex="0"></pre></details>
      <div id="sheet" class="sheet" role="list"></div>`;

  /** @param {import("./main.js").Page} page */
  constructor(page) {
    this.page = page;
    this.runId = 0;
    this.loaded = 0;
    const presets = byId("sheet-preset");
    presets.append(make("option", { value: "" }, "order of the run"), ...page.state.sheet_presets.map((each) => make("option", { value: each.sql }, each.words)));
    presets.addEventListener("change", () => {
      byId("sheet-order").value = presets.value;
      this.ask();
    });
    byId("sheet-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.ask();
    });
    byId("sheet-up").addEventListener("change", () => this.ask());
    byId("sheet-to-sql").addEventListener("click", () => this.page.sql(byId("sheet-sql").textContent));
    this.more = make("button", { type: "button", on: { click: () => this._fetch() } }, "More");
  }

  /** What of it stands in the address. */
  get facts() {
    return { run: this.runId, order: byId("sheet-order").value, where: byId("sheet-where").value, up: byId("sheet-up").checked ? "1" : "" };
  }

  /** @param {Record<string, string>} at */
  open(at) {
    return this.show(Number(at.run), at);
  }

  /** @param {number} runId @param {{order?: string, where?: string, up?: string}} [how] */
  show(runId, how = {}) {
    this.runId = runId;
    byId("sheet-order").value = how.order ?? "";
    byId("sheet-where").value = how.where ?? "";
    byId("sheet-up").checked = how.up === "1";
    byId("sheet-preset").value = [...byId("sheet-preset").options].some((each) => each.value === how.order) ? how.order : "";
    byId("sheet-title").textContent = `Figure grid of run ${runId}`;
    return this.ask();
  }

  async ask() {
    this.loaded = 0;
    byId("sheet").replaceChildren();
    byId("sheet").dataset.state = "asking";
    this.page.changed();
    await this._fetch();
  }

  async _fetch() {
    const home = byId("sheet");
    try {
      const { run, order, where } = this.facts;
      const found = await get(`/api/runs/${run}/sheet`, { order, where, ascending: byId("sheet-up").checked, start: this.loaded, most: PAGE });
      if (run !== this.runId) return;
      this.loaded += found.maps.length;
      byId("sheet-sql").textContent = found.sql;
      byId("sheet-count").textContent = `${this.loaded} of ${found.total} maps`;
      this.more.remove();
      home.append(...found.maps.map((each) => this._card(each)));
      if (this.loaded < found.total) home.append(this.more);
      home.dataset.state = "done";
    } catch (error) {
      home.dataset.state = "failed";
      byId("sheet-count").textContent = "";
      this.page.trouble(error.message);
    }
  }

  _card(each) {
    const open = () => this.page.open(this.runId, each.key);
    const value = typeof each.value === "number" ? short(each.value) : each.value;
    return make("button", { type: "button", className: "card", role: "listitem", title: each.name, data: { key: each.key, value: String(each.value ?? "") }, on: { click: open } },
      thumb(this.runId, each.key, each.image_id),
      make("span", { className: "name" }, fileName(each.name ?? "")),
      make("span", { className: "time" }, [each.class_name, each.label && each.label !== each.class_name ? `label ${each.label}` : "", value ?? ""].filter(Boolean).join(" · ")));
  }
}
