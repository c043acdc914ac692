// The controls of a statement: what they change goes through its text, and what the text says moves them.

import { ApiError, post } from "./api.js";
import { byId, count, duration, later, make, oneAtATime, size } from "./dom.js";

/** Patches and strides that the sliders know. */
const SIZES = [1, 2, 3, 4, 6, 8, 12, 16, 20, 24, 32, 40, 48, 64, 80, 96, 112, 128];

export class Settings {
  /** @param {any} state as /api/state gives it @param {{trouble: (text: string) => void, changed: () => void, model: (name: string) => void, shown: (parts: any) => void, idle: () => boolean}} calls */
  constructor(state, calls) {
    this.calls = calls;
    /** the parts of the statement, null while it is no EXPLAIN OCCLUDE */
    this.parts = null;
    this.model = null;
    this.editor = null;
    this._change = oneAtATime(() => this._apply());
    const plan = oneAtATime(() => this._askPlan());
    this.planSoon = later(220, plan);
    byId("model").addEventListener("change", (event) => calls.model(event.target.value));
    for (const name of ["fill", "score"]) byId(name).addEventListener("change", (event) => this.change({ [name]: event.target.value }));
    for (const name of ["patch", "stride"]) byId(name).addEventListener("input", (event) => this._slide(name, Number(event.target.value)));
    for (const id of ["approx", "approx-on"]) byId(id).addEventListener("input", () => this._approx());
    byId("region-clear").addEventListener("click", () => this.change({ region: null }));
    byId("plan").addEventListener("toggle", () => this.planSoon());
    this._enable(false);
    this.refresh(state);
  }

  /** There is something to set once there is a statement. @param {boolean} enabled */
  _enable(enabled) {
    for (const id of ["patch", "stride", "fill", "score", "approx-on"]) byId(id).disabled = !enabled;
  }

  /** Take over which models, fills and scores there are. @param {any} state */
  refresh(state) {
    this.models = state.models;
    const none = [make("option", { value: "" }, "no model yet: CREATE MODEL .. FROM ..")];
    byId("model").replaceChildren(...(state.models.length
      ? state.models.map((each) => make("option", { value: each.name }, `${each.name} · ${each.input_height}×${each.input_width}`)) : none));
    byId("fill").replaceChildren(...state.fills.map((name) => make("option", { value: name }, name)));
    byId("score").replaceChildren(...state.scores.map((name) => make("option", { value: name }, name.replace("_", "-"))));
    if (this.model) byId("model").value = this.model;
    if (this.parts) this.show(this.parts);
  }

  get modelFacts() {
    return this.models.find((each) => each.name.toLowerCase() === (this.model ?? "").toLowerCase());
  }

  /** Patch sizes that fit the model. */
  get sizes() {
    const model = this.modelFacts;
    const most = model ? Math.min(model.input_height, model.input_width) : 128;
    return SIZES.filter((each) => each <= most / 1.75 || each === 1);
  }

  /** Patch and stride of the statement, as numbers of pixels. */
  get numbers() {
    const patch = parseInt(this.parts?.patch ?? 16, 10) || 16;
    return { patch, stride: parseInt(this.parts?.stride ?? Math.max(1, Math.floor(patch / 4)), 10) || 1 };
  }

  /** The class that the statement names, null for the predicted one. */
  get className() {
    return /^FOR CLASS '(.*)'$/.exec(this.parts?.classes ?? "")?.[1]?.replaceAll("''", "'") ?? null;
  }

  /** Show the parts of a statement, which was typed or changed. @param {any} parts */
  show(parts) {
    this.parts = parts;
    if (parts) this._enable(true);
    const estimate = byId("estimate");
    if (estimate.dataset.text !== this.editor?.text) estimate.textContent = ""; // of another statement
    if (!parts) return;
    const { sizes, numbers } = this;
    for (const name of ["patch", "stride"]) {
      const nearest = sizes.reduce((best, each, i) => (Math.abs(each - numbers[name]) < Math.abs(sizes[best] - numbers[name]) ? i : best), 0);
      byId(name).max = String(sizes.length - 1);
      byId(name).value = String(nearest);
      byId(name).setAttribute("aria-valuetext", `${numbers[name]} pixels`);
      byId(`${name}-out`).textContent = `${parts[name] ?? numbers[name]} px`;
    }
    byId("fill").value = [...byId("fill").options].some((each) => each.value === parts.fill) ? parts.fill : "mean";
    byId("score").value = parts.score ?? "probability";
    byId("approx-on").checked = parts.approx !== null;
    byId("approx").disabled = parts.approx === null;
    if (parts.approx !== null) byId("approx").value = String(parts.approx);
    byId("approx-out").textContent = parts.approx === null ? "" : `SSIM ≥ ${parts.approx}`;
    byId("region-clear").hidden = !parts.region;
    byId("region-text").textContent = parts.region ? `Region ${parts.region.join(", ")}` : "Drag on the picture for a region.";
    const known = this.models.find((each) => each.name === parts.model);
    if (known) byId("model").value = this.model = known.name;
    this.calls.shown(parts);
  }

  _slide(name, place) {
    const value = this.sizes[place];
    byId(`${name}-out`).textContent = `${value} px`;
    this.change(name === "patch" && this.numbers.stride > value ? { patch: value, stride: value } : { [name]: value });
  }

  _approx() {
    const on = byId("approx-on").checked;
    byId("approx").disabled = !on;
    byId("approx-out").textContent = on ? `SSIM ≥ ${byId("approx").value}` : "";
    this.change({ approx: on ? Number(byId("approx").value) : null });
  }

  /** Change the statement by some of its parts; changes that come while one is under way go together. @param {any} changes */
  change(changes) {
    this._pending = { ...(this._pending ?? {}), ...changes };
    return this._change();
  }

  async _apply() {
    const changes = this._pending;
    if (!changes) return;
    this._pending = null;
    try {
      const found = await post("/api/statement", { text: this.editor.facts.mistake ? "" : this.editor.text, changes });
      this.show(found.parts);
      await this.editor.setText(found.text);
      this.planSoon();
      this.calls.changed();
    } catch (error) {
      this.calls.trouble(error.message);
    }
  }

  // ---- what it would take

  async _askPlan() {
    const { text, facts } = this.editor;
    const home = byId("estimate");
    if (facts.kind !== "explain" || facts.mistake) {
      home.textContent = "";
      return;
    }
    if (!this.calls.idle()) return;
    home.dataset.state = "asking";
    try {
      const found = await post("/api/plan", { text });
      if (found.busy || text !== this.editor.text) return void (home.dataset.state = "busy");
      home.textContent = estimateText(found.estimate);
      home.dataset.text = text;
      home.dataset.windows = String(found.estimate.windows);
      home.dataset.state = "done";
      byId("plan-text").textContent = found.text;
    } catch (error) {
      home.textContent = "";
      home.dataset.state = "failed";
      byId("plan-text").textContent = error instanceof ApiError ? error.facts.error : "";
    }
  }
}

function estimateText({ seconds, windows, stored, memory_bytes: memory }) {
  const left = windows - stored;
  const parts = [`${count(windows, "window")}${stored ? `, ${stored.toLocaleString("en")} stored` : ""}`];
  if (!left) return ["all stored", ...parts].join(" · ");
  return [...(seconds === null ? [] : [`≈ ${duration(seconds)}`]), ...parts, size(memory)].join(" · ");
}
