// The view in which a map comes about: an image, a model, what it says, and the map while it is computed.

import { ApiError, bytes, get, post, upload } from "./api.js";
import { drawBars } from "./bars.js";
import { PALETTE_NAMES, RANGES, gradient } from "./colors.js";
import { byId, count, duration, fileName, later, make, oneAtATime, short, signed, size } from "./dom.js";
import { decode } from "./frames.js";
import { JobFollower, stop, submit } from "./live.js";
import { MapCanvas, loadPicture, wholeInput } from "./mapcanvas.js";
import { Pointing } from "./pointing.js";

/** Patches and strides that the sliders know. */
const SIZES = [1, 2, 3, 4, 6, 8, 12, 16, 20, 24, 32, 40, 48, 64, 80, 96, 112, 128];

export class Explain {
  /** @param {any} state as /api/state gives it @param {{trouble: (text: string) => void, changed: () => void, compare: (address: string) => void, sheet: (runId: number) => void}} calls */
  constructor(state, calls) {
    this.state = state;
    this.calls = calls;
    this.image = null;
    this.model = null;
    this.parts = null;
    this.says = [];
    this.run = null;
    this.mapKey = null;
    this.estimate = null;
    this.map = new MapCanvas(byId("map"));
    this.pointing = new Pointing(this);
    this.follower = new JobFollower({
      onJob: (job) => this._job(job),
      onMap: (frame, job) => this._liveMap(frame, job),
      onLost: (text) => { this._ribbon("lost", text); this._ended(); },
    });
    this.jobId = 0;
    this.jobPicture = "";
    this._plan = oneAtATime(() => this._askPlan());
    this.planSoon = later(220, () => this._plan());
    this._change = oneAtATime((changes) => this._applyChanges(changes));
    this._wire();
  }

  // ---- the controls ---------------------------------------------------------------------------------------

  _wire() {
    byId("file-input").addEventListener("change", (event) => {
      const [file] = event.target.files;
      if (file) this.takeFile(file);
      event.target.value = "";
    });
    const drop = byId("drop");
    for (const where of [drop, byId("map").parentElement]) {
      where.addEventListener("dragover", (event) => { event.preventDefault(); drop.classList.add("over"); });
      where.addEventListener("dragleave", () => drop.classList.remove("over"));
      where.addEventListener("drop", (event) => {
        event.preventDefault();
        drop.classList.remove("over");
        const [file] = event.dataTransfer?.files ?? [];
        if (file) this.takeFile(file);
      });
    }
    byId("model").addEventListener("change", (event) => this.choose({ model: event.target.value }));
    byId("set").addEventListener("change", () => this.listImages());
    byId("image-words").addEventListener("input", later(200, () => this.listImages()));
    const option = (id, part) => byId(id).addEventListener("change", (event) => this.change({ [part]: event.target.value }));
    option("fill", "fill");
    option("score", "score");
    byId("patch").addEventListener("input", (event) => this._slide("patch", event.target));
    byId("stride").addEventListener("input", (event) => this._slide("stride", event.target));
    const approx = () => {
      const on = byId("approx-on").checked;
      byId("approx").disabled = !on;
      byId("approx-out").textContent = on ? `SSIM ≥ ${byId("approx").value}` : "";
      this.change({ approx: on ? Number(byId("approx").value) : null });
    };
    byId("approx-on").addEventListener("change", approx);
    byId("approx").addEventListener("input", approx);
    byId("region-clear").addEventListener("click", () => this.setRegion(null));
    byId("refine").addEventListener("click", () => this.refine());
    byId("stop").addEventListener("click", () => this.stop());
    byId("compare-add").addEventListener("click", () => this.calls.compare(this.address));
    byId("sheet-open").addEventListener("click", () => this.calls.sheet(this.run.run_id));
    byId("maps").addEventListener("change", (event) => this.showMap(event.target.value));
    for (const [id, step] of [["maps-before", -1], ["maps-after", 1]])
      byId(id).addEventListener("click", () => this._stepMap(step));
    byId("plan").addEventListener("toggle", () => this.planSoon());
    this._wireColors();
    this._fillChoices();
  }

  _wireColors() {
    const { scale } = this.map;
    byId("range").append(...RANGES.map(([value, text]) => make("option", { value }, text)));
    byId("palette").append(...PALETTE_NAMES.map((name) => make("option", { value: name }, name)));
    const changed = () => {
      scale.opacity = Number(byId("opacity").value);
      scale.range = byId("range").value;
      scale.palette = byId("palette").value;
      scale.custom = Number(byId("custom").value) || null;
      byId("custom-label").hidden = scale.range !== "custom";
      if (scale.range === "custom" && !scale.custom) byId("custom").value = short(scale.custom = Math.max(this.map.ends.up, this.map.ends.down));
      byId("opacity-out").textContent = `${Math.round(scale.opacity * 100)} %`;
      this.map.recolor();
      this._drawScale();
      this.calls.changed();
    };
    for (const id of ["opacity", "range", "palette", "custom"]) byId(id).addEventListener("input", changed);
    changed();
  }

  _fillChoices() {
    const { state } = this;
    byId("model").replaceChildren(...state.models.map((each) => make("option", { value: each.name }, `${each.name} · ${each.input_height}×${each.input_width}`)));
    if (!state.models.length) byId("model").replaceChildren(make("option", { value: "" }, "no model yet: CREATE MODEL .. FROM .."));
    byId("set").replaceChildren(
      make("option", { value: "" }, "all images"),
      ...state.image_sets.filter((each) => each.n_images > 1).map((each) => make("option", { value: each.name }, `${each.name} (${each.n_images})`)),
    );
    byId("fill").replaceChildren(...state.fills.map((name) => make("option", { value: name }, name)));
    byId("score").replaceChildren(...state.scores.map((name) => make("option", { value: name }, name.replace("_", "-"))));
    if (this.model) byId("model").value = this.model;
  }

  /** Take over what the server knows by now. @param {any} state */
  refresh(state) {
    this.state = state;
    this._fillChoices();
    this.showParts(this.parts);
    this.listImages();
  }

  async listImages() {
    const home = byId("images");
    const found = await get("/api/images", { set: byId("set").value || null, words: byId("image-words").value || null, most: 60 }).catch(() => null);
    if (!found) return;
    home.replaceChildren(
      ...found.images.map((each) =>
        make("li", {}, make("button", {
          type: "button", title: `${each.name}${each.label ? ` · ${each.label}` : ""}`, data: { image: each.image_id },
          aria: { label: each.name, pressed: String(this.image?.image_id === each.image_id) }, on: { click: () => this.choose({ image: each }) },
        }, make("img", { loading: "lazy", alt: "", width: 64, height: 64, src: `/api/images/${each.image_id}/picture?size=128` }), make("span", {}, each.name))),
      ),
    );
    home.dataset.state = "done";
    if (found.total > found.images.length) home.append(make("li", { className: "more" }, `${found.images.length} of ${found.total}`));
  }

  _slide(name, input) {
    const value = this.sizes[Number(input.value)];
    byId(`${name}-out`).textContent = `${value} px`;
    const changes = { [name]: value };
    if (name === "patch" && this.numbers.stride > value) changes.stride = value;
    this.change(changes);
  }

  /** Patch sizes that fit the model. */
  get sizes() {
    const model = this.modelFacts;
    const most = model ? Math.min(model.input_height, model.input_width) : 128;
    return SIZES.filter((each) => each <= most / 1.75 || each === 1);
  }

  get modelFacts() {
    return this.state.models.find((each) => each.name.toLowerCase() === (this.model ?? "").toLowerCase());
  }

  /** Patch and stride of the statement, as numbers of pixels. */
  get numbers() {
    const patch = parseInt(this.parts?.patch ?? 16, 10) || 16;
    return { patch, stride: parseInt(this.parts?.stride ?? Math.max(1, Math.floor(patch / 4)), 10) || 1 };
  }

  /** Show the parts of a statement, which was typed or changed, in the controls. @param {any} parts */
  showParts(parts) {
    this.parts = parts;
    if (!parts) return;
    const { sizes, numbers } = this;
    for (const name of ["patch", "stride"]) {
      byId(name).max = String(sizes.length - 1);
      const nearest = sizes.reduce((best, each, i) => (Math.abs(each - numbers[name]) < Math.abs(sizes[best] - numbers[name]) ? i : best), 0);
      byId(name).value = String(nearest);
      byId(`${name}-out`).textContent = `${parts[name] ?? numbers[name]} px`;
    }
    byId("fill").value = parts.fill && [...byId("fill").options].some((each) => each.value === parts.fill) ? parts.fill : "mean";
    byId("score").value = parts.score ?? "probability";
    byId("approx-on").checked = parts.approx !== null;
    byId("approx").disabled = parts.approx === null;
    if (parts.approx !== null) byId("approx").value = String(parts.approx);
    byId("approx-out").textContent = parts.approx === null ? "" : `SSIM ≥ ${parts.approx}`;
    if (!this.pointing.dragging) this.map.region = parts.region;
    byId("region-clear").hidden = !parts.region;
    byId("region-text").textContent = parts.region ? `Region ${parts.region.join(", ")}` : "Drag on the picture for a region.";
    if (this.state.models.some((each) => each.name === parts.model)) byId("model").value = this.model = parts.model;
    this.map.draw();
    byId("refine").disabled = !this._finer();
  }

  /** Change the statement by some of its parts. @param {any} changes */
  change(changes) {
    this._pending = { ...(this._pending ?? {}), ...changes };
    return this._change();
  }

  async _applyChanges() {
    const changes = this._pending;
    if (!changes) return;
    this._pending = null;
    try {
      const found = await post("/api/statement", { text: this.editor.facts.mistake ? "" : this.editor.text, changes });
      this.showParts(found.parts);
      await this.editor.setText(found.text);
      this.planSoon();
      this.calls.changed();
    } catch (error) {
      this.calls.trouble(error.message);
    }
  }

  /** @param {[number, number, number, number]|null} region */
  setRegion(region) {
    this.map.region = region;
    this.map.draw();
    return this.change({ region });
  }

  // ---- an image -------------------------------------------------------------------------------------------

  /** @param {File} file */
  async takeFile(file) {
    this._ribbon("upload", `Reading ${file.name}`);
    try {
      const found = await upload(file);
      await this.choose({ image: { ...found, name: found.name, own: true } });
      this.listImages();
    } catch (error) {
      this.calls.trouble(`${file.name}: ${error.message}`);
      this._ribbon("failed", "The image was not taken in");
    }
  }

  /**
   * Choose an image or a model: what the model says of it, then at once a coarse map.
   * @param {{image?: any, model?: string}} what
   */
  async choose(what) {
    if (what.image) this.image = what.image;
    if (what.model) this.model = what.model;
    this.model = this.model ?? this.state.models[0]?.name ?? null;
    for (const button of byId("images").querySelectorAll("button"))
      button.setAttribute("aria-pressed", String(Number(button.dataset.image) === this.image?.image_id));
    if (!this.image) return;
    this._clear();
    await this._showPicture();
    if (!this.model) {
      this._ribbon("failed", "There is no model yet: CREATE MODEL .. FROM .. gives one a name");
      return;
    }
    const model = this.modelFacts;
    const coarse = 2 ** Math.max(0, Math.round(Math.log2(Math.min(model.input_height, model.input_width) / 7)));
    const score = model.activation === "none" ? "value" : this.parts?.score && this.parts.score !== "value" ? this.parts.score : "log_odds";
    await this.change({ source: this._source(), model: this.model, classes: null, region: null, approx: null, patch: coarse, stride: coarse, score });
    if (await this.askModel()) await this.start();
  }

  _source() {
    return this.image.own || !this.image.path ? { kind: "name", value: this.image.name } : { kind: "path", value: this.image.path };
  }

  /** What probes and pictures call the image. */
  get imageKey() {
    return this.image?.image_id ?? null;
  }

  _clear() {
    this.run = this.mapKey = null;
    this.says = [];
    byId("bars").replaceChildren();
    byId("bars").dataset.state = "none";
    this.map.setFrame(null);
    Object.assign(this.map, { region: null, pinned: null, pointed: null, hand: null });
    byId("maps").hidden = byId("maps-before").hidden = byId("maps-after").hidden = true;
    for (const id of ["compare-add", "sheet-open"]) byId(id).disabled = true;
    byId("quality").textContent = "";
    byId("warning").hidden = true;
    this.pointing.show();
  }

  async _showPicture() {
    byId("welcome").hidden = true;
    if (this.imageKey === null) return;
    try {
      const picture = await loadPicture(`/api/images/${this.imageKey}/picture?size=1024`);
      const size = [picture.naturalHeight, picture.naturalWidth];
      this.map.setPicture(picture, wholeInput(size));
      this.map.canvas.dataset.drawn = "picture";
    } catch (error) {
      this.calls.trouble(error.message);
    }
  }

  /** Ask the model about the image itself. @returns {Promise<boolean>} whether it answered */
  async askModel() {
    byId("says-of").textContent = this.image?.name ?? "";
    byId("bars").dataset.state = "asking";
    this._ribbon("asking", `Asking ${this.model}`);
    try {
      const said = await post("/api/probe", { model: this.model, image: this.imageKey, fill: this.parts?.fill ?? "mean" });
      if (said.busy) return true;
      this.says = said.classes;
      this.map.setPicture(this.map.picture, { source_size: said.source_size, model_box: said.model_box, model_size: said.size });
      this.drawBars();
      return true;
    } catch (error) {
      this.calls.trouble(error.message);
      this._ribbon("failed", "The model gave no answer");
      byId("bars").dataset.state = "failed";
      return false;
    }
  }

  /** @param {any[]|null} [hidden] what it says with the patch hidden */
  drawBars(hidden = null) {
    const chosen = /^FOR CLASS '(.*)'$/.exec(this.parts?.classes ?? "")?.[1]?.replaceAll("''", "'") ?? null;
    drawBars(byId("bars"), this.says, {
      hidden, chosen,
      onChoose: async (found) => {
        await this.change({ classes: chosen === found.class_name ? null : { class_id: found.class_id, class_name: found.class_name } });
        await this.start();
      },
    });
    byId("bars").dataset.state = hidden ? "hidden" : "clean";
  }

  // ---- a statement that runs --------------------------------------------------------------------------------

  /** Run what the editor holds. */
  async start() {
    const text = this.editor.text.trim();
    if (!text) return;
    byId("trouble").hidden = true;
    this.estimate = byId("estimate").dataset.seconds ? Number(byId("estimate").dataset.seconds) : null;
    try {
      this.attach(await submit(text));
    } catch (error) {
      this.calls.trouble(error.message);
    }
  }

  /** Follow a job that was begun here or elsewhere. @param {any} job */
  attach(job) {
    this.jobId = job.job_id;
    this.jobUpdates = 0;
    this.jobPicture = "";
    byId("stop").disabled = false;
    document.body.dataset.state = "running";
    byId("ribbon").dataset.updates = "0";
    this._ribbon("waiting", "Waiting for its turn");
    this.follower.follow(job.job_id);
    this.calls.changed();
  }

  async stop() {
    byId("stop").disabled = true;
    await stop(this.jobId).catch((error) => this.calls.trouble(error.message));
  }

  _job(job) {
    const { progress, outcome } = job;
    if (job.state === "waiting") return this._ribbon("waiting", "Waiting for its turn");
    if (job.state === "running") return this._progress(progress);
    this._ended();
    if (job.state === "failed") {
      this._ribbon("failed", "The statement failed");
      if (outcome.context) this.editor.showError(outcome);
      else this.calls.trouble(outcome.error);
    } else if (job.state === "stopped") {
      this._ribbon("stopped", `Stopped${progress.total ? ` after ${progress.done} of ${count(progress.total, progress.unit.slice(0, -1))}` : ""}`);
      byId("ribbon-note").textContent = outcome.text ?? "";
      byId("progress").value = progress.total ? progress.done / progress.total : 0;
    } else if (outcome.kind === "maps") {
      this._ribbon("done", "Done");
      this._showRun(outcome, job).catch((error) => this.calls.trouble(error.message));
    } else {
      this._ribbon("done", "Done");
      this.calls.outcome(outcome);
    }
  }

  _ended() {
    this.jobId = 0;
    byId("stop").disabled = true;
    document.body.dataset.state = "idle";
    this.calls.changed();
    this.calls.ended();
  }

  _progress(progress) {
    byId("stop").disabled = false;
    if (progress.phase || progress.total === undefined) return this._ribbon("preparing", progress.phase ? `${progress.phase} …` : "Beginning");
    const share = progress.total ? progress.done / progress.total : 0;
    const images = progress.n_images > 1 ? `image ${Math.min(progress.image + 1, progress.n_images)} of ${progress.n_images} · ` : "";
    this._ribbon("running", `${images}${progress.done.toLocaleString("en")} of ${count(progress.total, progress.unit.replace(/s$/, ""))}`);
    byId("progress").value = share;
    byId("ribbon-time").textContent = progress.seconds_left === null ? "" : `${duration(progress.seconds_left)} left · ${Math.round(progress.rate)}/s`;
    byId("ribbon-bound").textContent = boundText(progress.bound, null, progress.stated);
    byId("ribbon-note").textContent = progress.reused ? `${progress.reused} taken from the database` : "";
  }

  async _liveMap(frame, job) {
    const place = job.progress.image ?? 0;
    const same = this.image && (frame.image === this.image.path || fileName(frame.image) === fileName(this.image.path ?? ""));
    if (!same || !this.map.placement) {
      const key = `${job.job_id}/${place}`;
      if (this.jobPicture !== key) {
        this.jobPicture = key;
        const picture = await loadPicture(`/api/jobs/${job.job_id}/picture?image=${place}`).catch(() => null);
        this.map.setPicture(picture, wholeInput(frame.model_size));
      }
    } else if (this.map.placement.model_size.join() !== frame.model_size.join()) {
      this.map.setPicture(this.map.picture, { ...wholeInput(frame.model_size), source_size: this.map.placement.source_size, model_box: [0, 0, ...this.map.placement.source_size] });
    }
    if (this.jobId !== job.job_id && this.run) return; // it ended meanwhile: the whole map is there
    byId("welcome").hidden = true;
    this.map.setFrame(frame);
    this.jobUpdates += 1;
    byId("ribbon").dataset.updates = String(this.jobUpdates);
    this.map.canvas.dataset.drawn = "live";
    this._drawScale();
    this.pointing.show();
  }

  // ---- a run that is stored -----------------------------------------------------------------------------------

  async _showRun(outcome, job) {
    await this.openRun(outcome.run_id, null, { keepText: true });
    const expected = outcome.estimate?.seconds;
    byId("ribbon-time").textContent = `took ${duration(job.seconds)}${expected ? ` · ${duration(expected)} estimated` : ""}`;
    const notes = [...outcome.notes, ...outcome.failures.map((each) => `${fileName(each.image)}: ${each.error}`)];
    byId("ribbon-note").textContent = notes.slice(0, 3).join(" · ");
    this.planSoon();
  }

  /** Open a stored run. @param {number} runId @param {string|null} key @param {{keepText?: boolean}} [how] */
  async openRun(runId, key, how = {}) {
    const run = await get(`/api/runs/${runId}`);
    this.run = run;
    if (!how.keepText) {
      this.model = this.state.models.find((each) => each.name === run.model)?.name ?? this.model;
      await this.editor.setText(run.query);
      this.showParts(this.editor.facts.parts);
      const measured = run.measured ? JSON.parse(run.measured) : {};
      this._ribbon("done", run.run_name ?? `Run ${run.run_id}`);
      byId("ribbon-time").textContent = measured.seconds ? `took ${duration(measured.seconds)}` : run.status;
    }
    byId("maps").replaceChildren(...run.maps.map((each) => make("option", { value: each.key }, mapTitle(each, run.maps))));
    const several = run.maps.length > 1;
    byId("maps").hidden = byId("maps-before").hidden = byId("maps-after").hidden = !several;
    byId("sheet-open").disabled = false;
    if (run.maps.length) await this.showMap(run.maps.some((each) => each.key === key) ? key : this._sameImage(run));
    else this._ribbon("stopped", "This run has no map yet");
  }

  /** The map of the run that shows the image that is chosen, or its first. */
  _sameImage(run) {
    return (run.maps.find((each) => each.image_id === this.image?.image_id) ?? run.maps[0]).key;
  }

  _stepMap(step) {
    const keys = this.run.maps.map((each) => each.key);
    this.showMap(keys[(keys.indexOf(this.mapKey) + step + keys.length) % keys.length]);
  }

  /** Show a map of the run that is open. @param {string} key */
  async showMap(key) {
    const runId = this.run.run_id;
    const frame = decode(await bytes(`/api/runs/${runId}/maps/${key}/planes`));
    if (this.run?.run_id !== runId) return;
    const facts = this.run.maps.find((each) => each.key === key);
    const other = this.image?.image_id !== frame.image_id;
    this.mapKey = key;
    byId("maps").value = key;
    byId("welcome").hidden = true;
    if (other || !this.map.picture) {
      this.image = { image_id: frame.image_id, name: facts.name ?? fileName(frame.image), path: frame.image };
      this.says = [];
      const picture = await loadPicture(`/api/images/${frame.image_id}/picture?size=1024`).catch(() => null);
      this.map.picture = picture;
    }
    this.map.setPicture(this.map.picture, frame);
    this.map.pinned = null;
    this.map.setFrame(frame);
    this.map.canvas.dataset.drawn = "map";
    this.map.canvas.dataset.run = String(runId);
    this.map.canvas.setAttribute("aria-label", `Map of ${fileName(frame.image)} for ${frame.class_name}: ${frame.quality}`);
    byId("ribbon").dataset.state = "done";
    byId("ribbon-title").textContent = `${this.image.name} · ${frame.class_name}`;
    byId("ribbon-bound").textContent = frame.approx ? boundText(frame.bound, frame.confidence, "", frame.metric) : frame.quality;
    byId("progress").value = 1;
    byId("quality").textContent = `${frame.model} · ${frame.score_kind.replace("_", "-")} ${short(frame.clean_score)} · ${frame.shape.join("×")} cells · ${frame.quality_sentence}`;
    byId("warning").hidden = !frame.warning;
    byId("warning").textContent = frame.warning;
    byId("compare-add").disabled = false;
    this._drawScale();
    this.pointing.show();
    byId("refine").disabled = !this._finer();
    if (!this.says.length && this.model && this.imageKey !== null) this._askQuietly();
    else this.drawBars();
    this.calls.changed();
  }

  async _askQuietly() {
    const said = await post("/api/probe", { model: this.model, image: this.imageKey, fill: this.parts?.fill ?? "mean" }).catch(() => null);
    if (!said || said.busy || said.model !== this.model) return;
    this.says = said.classes;
    byId("says-of").textContent = this.image?.name ?? "";
    this.drawBars();
  }

  /** The address of the map that is shown, `run/key`. */
  get address() {
    return `${this.run.run_id}/${this.mapKey}`;
  }

  _finer() {
    const { stride } = this.numbers;
    return this.parts && this.image && stride > 1 ? Math.max(1, Math.floor(stride / 2)) : 0;
  }

  /** Halve the stride: all cells that are stored answer. */
  async refine() {
    const finer = this._finer();
    if (!finer) return;
    await this.change({ stride: finer });
    await this.start();
  }

  // ---- what stands around the map -----------------------------------------------------------------------------

  _ribbon(state, title) {
    byId("ribbon").dataset.state = state;
    byId("ribbon-title").textContent = title;
    byId("ribbon-time").textContent = "";
    byId("ribbon-note").textContent = "";
    if (state !== "running" && state !== "stopped") byId("ribbon-bound").textContent = "";
    const bar = byId("progress");
    if (["preparing", "asking", "upload"].includes(state)) bar.removeAttribute("value");
    else if (state !== "running") bar.value = state === "done" ? 1 : 0;
  }

  _drawScale() {
    const { ends, scale, frame } = this.map;
    byId("scale-bar").style.background = gradient(scale, ends);
    byId("scale-low").textContent = frame ? (ends.down ? signed(-ends.down) : "0") : "";
    byId("scale-high").textContent = frame ? (ends.up ? signed(ends.up) : "0") : "";
  }

  async _askPlan() {
    const text = this.editor.text;
    const home = byId("estimate");
    if (this.editor.facts.kind !== "explain" || this.editor.facts.mistake) {
      home.textContent = "";
      home.dataset.seconds = "";
      return;
    }
    if (this.jobId || !this.image) return;
    home.dataset.state = "asking";
    try {
      const found = await post("/api/plan", { text });
      if (found.busy || text !== this.editor.text) return void (home.dataset.state = "busy");
      const { seconds, windows, stored, memory_bytes: memory } = found.estimate;
      const left = windows - stored;
      home.textContent = [
        left ? (seconds === null ? "" : `≈ ${duration(seconds)}`) : "all stored",
        `${count(windows, "window")}${stored ? `, ${stored.toLocaleString("en")} stored` : ""}`,
        left ? size(memory) : "",
      ].filter(Boolean).join(" · ");
      home.dataset.seconds = seconds ?? "";
      home.dataset.windows = String(windows);
      home.dataset.state = "done";
      byId("plan-text").textContent = found.text;
    } catch (error) {
      home.textContent = "";
      home.dataset.state = "failed";
      byId("plan-text").textContent = error instanceof ApiError ? error.facts.error : "";
    }
  }
}

/** What a bound says, in words. */
function boundText(bound, confidence, stated, metric = null) {
  if (bound === null || bound === undefined) return stated ?? "";
  const name = (metric ?? /^(\w+)/.exec(stated ?? "")?.[1] ?? "ssim").toUpperCase();
  return `${name === "APPROXIMATE" ? "SSIM" : name} ≥ ${Math.floor(bound * 1000) / 1000} at ${Math.round((confidence ?? 0.95) * 100)} %`;
}

function mapTitle(each, all) {
  const several = new Set(all.map((other) => other.patch.join())).size > 1;
  return `${fileName(each.name ?? each.image)} · ${each.class_name}${several ? ` · patch ${each.patch.join("×")}` : ""}`;
}
