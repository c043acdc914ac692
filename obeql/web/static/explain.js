// The view in which a map comes about: an image, a model, what it says, and the map while it is computed.

import { bytes, get, post, upload } from "./api.js";
import { drawBars } from "./bars.js";
import { byId, duration, fileName, make, short } from "./dom.js";
import { decode } from "./frames.js";
import { ImageList } from "./imagelist.js";
import { JobFollower, stop, submit } from "./live.js";
import { MapCanvas, loadPicture, wholeInput } from "./mapcanvas.js";
import { Pointing } from "./pointing.js";
import { Ribbon } from "./ribbon.js";
import { ScaleBar } from "./scalebar.js";
import { Settings } from "./settings.js";

export default class Explain {
  /** @param {import("./main.js").Page} page */
  constructor(page) {
    this.page = page;
    this.image = null;
    /** what the model says of the image itself */
    this.says = [];
    this.run = null;
    /** how long the run took, and what else the line above its maps says */
    this.took = {};
    this.mapKey = null;
    this.jobId = 0;
    this.jobPicture = "";
    this.map = new MapCanvas(byId("map"));
    this.ribbon = new Ribbon();
    this.scale = new ScaleBar(this.map, () => page.changed());
    this.images = new ImageList({ choose: (image) => this.choose({ image }), take: (file) => this.takeFile(file) });
    this.settings = new Settings(page.state, {
      trouble: page.trouble, changed: page.changed, model: (name) => this.choose({ model: name }),
      shown: (parts) => this._partsShown(parts), idle: () => !this.jobId && this.image !== null,
    });
    this.pointing = new Pointing(this);
    this.follower = new JobFollower({
      onJob: (job) => this._job(job),
      onMap: (frame, job) => this._liveMap(frame, job),
      onLost: (text) => { this.ribbon.say("lost", text); this._ended(); },
    });
    byId("refine").addEventListener("click", () => this.refine());
    byId("stop").addEventListener("click", () => this.stop());
    byId("compare-add").addEventListener("click", () => page.compare(this.address));
    byId("sheet-open").addEventListener("click", () => page.sheet(this.run.run_id));
    byId("maps").addEventListener("change", (event) => this.showMap(event.target.value));
    for (const [id, step] of [["maps-before", -1], ["maps-after", 1]]) byId(id).addEventListener("click", () => this._stepMap(step));
  }

  get parts() { return this.settings.parts; }
  get numbers() { return this.settings.numbers; }
  get model() { return this.settings.model; }
  /** The editor of the statement. */
  set editor(editor) { this.settings.editor = editor; }
  get editor() { return this.settings.editor; }
  /** What probes and pictures call the image. */
  get imageKey() { return this.image?.image_id ?? null; }
  /** The address of the map that is shown, `run/key`. */
  get address() { return `${this.run.run_id}/${this.mapKey}`; }

  /** What of it stands in the address. */
  get facts() {
    const of = this.jobId ? { job: this.jobId } : this.run ? { run: this.run.run_id, map: this.mapKey } : {};
    return { ...of, statement: this.editor.text, image: this.image?.image_id, model: this.model, ...this.colors };
  }

  /** The colors of its maps, where they are not the usual ones. */
  get colors() {
    const { scale } = this.map;
    return { opacity: scale.opacity === 0.75 ? "" : scale.opacity, range: scale.range === "symmetric" ? "" : scale.range, ends: scale.range === "custom" ? scale.custom : "", colors: scale.palette === "vermilion–blue" ? "" : scale.palette };
  }

  /** Take over the colors of an address, in whichever view. @param {Record<string, string>} at */
  keep(at) {
    for (const [id, value] of [["opacity", at.opacity], ["range", at.range], ["custom", at.ends], ["palette", at.colors]])
      if (value) {
        byId(id).value = value;
        byId(id).dispatchEvent(new Event("input"));
      }
  }

  /** @param {Record<string, string>} [at] without one it stays as it was */
  async open(at) {
    if (!at) return;
    const { jobs } = await get("/api/jobs");
    const going = jobs.find((each) => String(each.job_id) === at.job) ?? (at.run ? undefined : jobs.find((each) => ["running", "waiting"].includes(each.state)));
    if (at.model) this.settings.model = at.model;
    if (at.image) {
      const { images } = await get("/api/images", { most: 1000 });
      this.image = images.find((each) => String(each.image_id) === at.image) ?? null;
      if (this.image) await this.showPicture();
    }
    if (at.statement ?? going?.text) await this.editor.setText(at.statement ?? going.text);
    if (this.editor.facts.parts) this.settings.show(this.editor.facts.parts);
    if (going) {
      this.attach(going);
      if (this.image) this.askQuietly();
    } else if (at.run) await this.openRun(Number(at.run), at.map ?? null, { keepText: Boolean(at.statement) }).catch((error) => this.page.trouble(error.message));
    else if (this.image && this.model) this.askQuietly();
    this.settings.planSoon();
  }

  /** Take over what the server knows by now. @param {any} state */
  refresh(state) {
    this.settings.refresh(state);
    this.images.sets(state.image_sets);
    this.images.list();
  }

  /** @param {any} changes parts of the statement */
  change(changes) { return this.settings.change(changes); }

  /** @param {[number, number, number, number]|null} region */
  setRegion(region) {
    this.map.region = region;
    this.map.draw();
    return this.change({ region });
  }

  _partsShown(parts) {
    if (!this.pointing.dragging) this.map.region = parts.region;
    this.map.draw();
    byId("refine").disabled = !this._finer();
  }

  // ---- an image -------------------------------------------------------------------------------------------

  /** @param {File} file */
  async takeFile(file) {
    this.ribbon.say("upload", `Reading ${file.name}`);
    try {
      await this.choose({ image: { ...(await upload(file)), own: true } });
      this.images.list();
    } catch (error) {
      this.page.trouble(`${file.name}: ${error.message}`);
      this.ribbon.say("failed", "The image was not taken in");
    }
  }

  /**
   * Choose an image or a model: what the model says of it, then at once a coarse map.
   * @param {{image?: any, model?: string}} what
   */
  async choose(what) {
    const { settings } = this;
    if (what.image) this.image = what.image;
    settings.model = what.model ?? settings.model ?? settings.models[0]?.name ?? null;
    this.images.mark(this.imageKey);
    if (!this.image) return;
    this._clear();
    await this.showPicture();
    const model = settings.modelFacts;
    if (!model) return this.ribbon.say("failed", "There is no model yet: CREATE MODEL .. FROM .. gives one a name");
    const coarse = 2 ** Math.max(0, Math.round(Math.log2(Math.min(model.input_height, model.input_width) / 7)));
    const score = model.activation === "none" ? "value" : this.parts?.score && this.parts.score !== "value" ? this.parts.score : "log_odds";
    await this.change({ source: this._source(), model: model.name, classes: null, region: null, approx: null, patch: coarse, stride: coarse, score });
    if (await this.askModel()) await this.start();
  }

  _source() {
    return this.image.own || !this.image.path ? { kind: "name", value: this.image.name } : { kind: "path", value: this.image.path };
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

  /** Show the picture of the image; where the model's input lies in it is told by the model. */
  async showPicture() {
    byId("welcome").hidden = true;
    if (this.imageKey === null) return;
    try {
      const picture = await loadPicture(`/api/images/${this.imageKey}/picture?size=1024`);
      this.map.setPicture(picture, wholeInput([picture.naturalHeight, picture.naturalWidth]));
      this.map.canvas.dataset.drawn = "picture";
    } catch (error) {
      this.page.trouble(error.message);
    }
  }

  _asked() {
    return post("/api/probe", { model: this.model, image: this.imageKey, fill: this.parts?.fill ?? "mean" });
  }

  /** Ask the model about the image itself. @returns {Promise<boolean>} whether it answered */
  async askModel() {
    byId("says-of").textContent = this.image?.name ?? "";
    byId("bars").dataset.state = "asking";
    this.ribbon.say("asking", `Asking ${this.model}`);
    try {
      const said = await this._asked();
      if (said.busy) return true;
      this.says = said.classes;
      this.map.setPicture(this.map.picture, { source_size: said.source_size, model_box: said.model_box, model_size: said.size });
      this.drawBars();
      return true;
    } catch (error) {
      this.page.trouble(error.message);
      this.ribbon.say("failed", "The model gave no answer");
      byId("bars").dataset.state = "failed";
      return false;
    }
  }

  /** As `askModel`, beside a map that is there already. */
  async askQuietly() {
    const said = await this._asked().catch(() => null);
    if (!said || said.busy || said.model !== this.model) return;
    this.says = said.classes;
    if (this.map.picture && !this.map.frame) this.map.setPicture(this.map.picture, { source_size: said.source_size, model_box: said.model_box, model_size: said.size });
    byId("says-of").textContent = this.image?.name ?? "";
    this.drawBars();
  }

  /** @param {any[]|null} [hidden] what it says with the patch hidden */
  drawBars(hidden = null) {
    const chosen = this.settings.className;
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
    try {
      this.attach(await submit(text));
    } catch (error) {
      this.page.trouble(error.message);
    }
  }

  /** Follow a job that was begun here or elsewhere. @param {any} job */
  attach(job) {
    this.jobId = job.job_id;
    this.jobPicture = "";
    byId("stop").disabled = false;
    document.body.dataset.state = "running";
    byId("ribbon").dataset.updates = "0";
    this.ribbon.say("waiting", "Waiting for its turn");
    this.follower.follow(job.job_id);
    this.page.changed();
  }

  async stop() {
    byId("stop").disabled = true;
    await stop(this.jobId).catch((error) => this.page.trouble(error.message));
  }

  _job(job) {
    const { outcome } = job;
    if (job.state === "waiting") return this.ribbon.say("waiting", "Waiting for its turn");
    if (job.state === "running") return this.ribbon.running(job.progress);
    this._ended();
    if (job.state === "failed") {
      this.ribbon.say("failed", "The statement failed");
      if (outcome.context && job.text === this.editor.text.trim()) this.editor.showError(outcome);
      else this.page.trouble(outcome.error);
    } else if (job.state === "stopped") this.ribbon.stopped(job);
    else if (outcome.kind === "maps") this._showRun(outcome, job);
    else {
      this.ribbon.say("done", "Done");
      this.page.outcome(outcome);
    }
  }

  _ended() {
    this.jobId = 0;
    byId("stop").disabled = true;
    document.body.dataset.state = "idle";
    this.page.changed();
    this.page.ended();
  }

  async _liveMap(frame, job) {
    const place = job.progress.image ?? 0;
    const same = this.image && (frame.image === this.image.path || fileName(frame.image) === fileName(this.image.path ?? ""));
    const { placement } = this.map;
    if (!same || !placement) {
      const key = `${job.job_id}/${place}`;
      if (this.jobPicture !== key) {
        this.jobPicture = key;
        const picture = await loadPicture(`/api/jobs/${job.job_id}/picture?image=${place}`).catch(() => null);
        this.map.setPicture(picture, wholeInput(frame.model_size));
      }
    } else if (placement.model_size.join() !== frame.model_size.join())
      this.map.setPicture(this.map.picture, { source_size: placement.source_size, model_size: frame.model_size, model_box: [0, 0, ...placement.source_size] });
    if (this.jobId !== job.job_id && this.run) return; // it ended meanwhile: the whole map is there
    byId("welcome").hidden = true;
    this.map.setFrame(frame);
    byId("ribbon").dataset.updates = String(Number(byId("ribbon").dataset.updates) + 1);
    this.map.canvas.dataset.drawn = "live";
    this.scale.draw();
    this.pointing.show();
  }

  // ---- a run that is stored -----------------------------------------------------------------------------------

  async _showRun(outcome, job) {
    const expected = outcome.estimate?.seconds;
    const notes = [...outcome.notes, ...outcome.failures.map((each) => `${fileName(each.image)}: ${each.error}`)];
    const time = `took ${duration(job.seconds)}${expected ? ` · ${duration(expected)} estimated` : ""}`;
    this.ribbon.say("drawing", "Drawing the map");
    try {
      await this.openRun(outcome.run_id, null, { took: { time, note: notes.slice(0, 3).join(" · ") } });
    } catch (error) {
      this.page.trouble(error.message);
      this.ribbon.say("failed", "The map is stored, but it was not drawn");
    }
    this.settings.planSoon();
  }

  /**
   * Open a stored run: what it was asked by stands in the editor then. Of a run that has just ended `took` is told instead.
   * @param {number} runId @param {string|null} key @param {{keepText?: boolean, took?: {time?: string, note?: string}}} [how]
   */
  async openRun(runId, key, how = {}) {
    const run = await get(`/api/runs/${runId}`);
    this.run = run;
    this.took = how.took ?? {};
    if (!how.keepText && !how.took) {
      this.settings.model = this.settings.models.find((each) => each.name === run.model)?.name ?? this.model;
      await this.editor.setText(run.query);
      this.settings.show(this.editor.facts.parts);
      const measured = run.measured ? JSON.parse(run.measured) : {};
      this.took = { time: measured.seconds ? `took ${duration(measured.seconds)}` : run.status };
    }
    byId("maps").replaceChildren(...run.maps.map((each) => make("option", { value: each.key }, mapTitle(each, run.maps))));
    byId("maps").hidden = byId("maps-before").hidden = byId("maps-after").hidden = run.maps.length < 2;
    byId("sheet-open").disabled = false;
    if (!run.maps.length) return this.ribbon.say("stopped", "This run has no map yet");
    const shown = run.maps.find((each) => each.key === key) ?? run.maps.find((each) => each.image_id === this.imageKey) ?? run.maps[0];
    await this.showMap(shown.key);
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
    this.mapKey = key;
    byId("maps").value = key;
    byId("welcome").hidden = true;
    if (this.imageKey !== frame.image_id || !this.map.picture) {
      this.image = { image_id: frame.image_id, name: facts.name, path: frame.image };
      this.images.mark(frame.image_id);
      this.says = [];
      this.map.picture = await loadPicture(`/api/images/${frame.image_id}/picture?size=1024`).catch(() => null);
    }
    this.map.pinned = null;
    this.map.setPicture(this.map.picture, frame);
    this.map.setFrame(frame);
    const { dataset } = this.map.canvas;
    [dataset.drawn, dataset.run] = ["map", String(runId)];
    this.map.canvas.setAttribute("aria-label", `Map of ${facts.name} for ${frame.class_name}: ${frame.quality}`);
    this.ribbon.map(`${this.image.name} · ${frame.class_name}`, frame, this.took);
    byId("quality").textContent = `${frame.model} · ${frame.score_kind.replace("_", "-")} ${short(frame.clean_score)} · ${frame.shape.join("×")} cells · ${frame.quality_sentence}`;
    byId("warning").hidden = !frame.warning;
    byId("warning").textContent = frame.warning;
    byId("compare-add").disabled = false;
    byId("refine").disabled = !this._finer();
    this.scale.draw();
    this.pointing.show();
    if (!this.says.length && this.model && this.imageKey !== null) this.askQuietly();
    else this.drawBars();
    this.page.changed();
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
}

function mapTitle(each, all) {
  const several = new Set(all.map((other) => other.patch.join())).size > 1;
  return `${each.name} · ${each.class_name}${several ? ` · patch ${each.patch.join("×")}` : ""}`;
}
