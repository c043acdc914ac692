// SQL on the file: an editor, a table of the answer with the maps it names, and all rows as CSV.

import { post, save, send } from "./api.js";
import { byId, make, short } from "./dom.js";
import { Editor } from "./editor.js";
import { thumb } from "./thumbs.js";

const FIRST = "SELECT run_id, image_id, map_id, name, class_name, clean_score,\n       list_max(flatten(importance)) AS strongest\nFROM heatmaps\nORDER BY strongest DESC\nLIMIT 20";

export default class SqlTab {
  static html = `
      <div class="line"><h1>SQL</h1><span class="time" id="sql-note"></span></div>
      <div id="sql-editor"></div>
      <div class="run"><button type="button" id="sql-run" class="main" title="Ctrl-Enter">Run</button><button type="button" id="sql-csv" disabled>Download CSV</button><span id="sql-count" class="time" role="status"></span></div>
      <div id="sql-result" class="scroll" tabindex="0" aria-label="Result"></div>`;

  /** @param {import("./main.js").Page} page */
  constructor(page) {
    this.page = page;
    this.editor = new Editor(byId("sql-editor"), { label: "SQL", onRun: () => this.run(), onChange: () => page.changed() });
    byId("sql-note").textContent = page.state.allow_files ? "files may be read and written" : "reads the database; files are out of reach";
    byId("sql-run").addEventListener("click", () => this.run());
    byId("sql-csv").addEventListener("click", () => this.download());
  }

  get text() {
    return this.editor.text;
  }

  /** What of it stands in the address. */
  get facts() {
    return { sql: this.text };
  }

  /** @param {Record<string, string>} [at] */
  open(at = {}) {
    this.show(at.sql ?? "");
  }

  /** @param {string} text */
  show(text) {
    if (text || !this.editor.text) this.editor.setText(text || FIRST);
  }

  async run() {
    const home = byId("sql-result");
    home.dataset.state = "asking";
    byId("sql-count").textContent = "…";
    this.page.changed();
    try {
      const started = performance.now();
      const found = await post("/api/sql", { sql: this.editor.text });
      home.replaceChildren(this._table(found));
      byId("sql-count").textContent = `${found.more ? "the first " : ""}${found.rows.length} row${found.rows.length === 1 ? "" : "s"} · ${Math.round(performance.now() - started)} ms`;
      byId("sql-csv").disabled = false;
      home.dataset.state = "done";
    } catch (error) {
      home.replaceChildren(make("pre", { className: "warning" }, error.facts?.error ?? error.message));
      byId("sql-count").textContent = "";
      home.dataset.state = "failed";
    }
  }

  async download() {
    try {
      await save(await send("/api/sql.csv", { sql: this.editor.text }), "result.csv");
    } catch (error) {
      this.page.trouble(error.message);
    }
  }

  _table({ columns, rows }) {
    const [run, map, image] = ["run_id", "map_id", "image_id"].map((name) => columns.indexOf(name));
    const drawn = run >= 0 && map >= 0 && image >= 0;
    const head = make("tr", {}, drawn ? make("th", {}, "map") : null, ...columns.map((name, i) => make("th", typeof rows[0]?.[i] === "number" ? { className: "number" } : {}, name)));
    const body = rows.map((row) => {
      const key = drawn ? `${row[map]}-${row[image]}` : "";
      return make("tr", {},
        drawn ? make("td", {}, make("button", { type: "button", className: "plain", aria: { label: "Open the map" }, on: { click: () => this.page.open(row[run], key) } }, thumb(row[run], key, row[image]))) : null,
        ...row.map((value) => make("td", typeof value === "number" ? { className: "number" } : {}, shown(value))));
    });
    return make("table", {}, make("thead", {}, head), make("tbody", {}, ...body));
  }
}

function shown(value) {
  if (value === null) return "";
  if (typeof value === "number") return Number.isInteger(value) ? String(value) : short(value);
  const text = typeof value === "object" ? JSON.stringify(value) : String(value);
  return text.length > 160 ? `${text.slice(0, 160)}…` : text;
}
