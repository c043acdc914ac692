// Two to four maps beside each other: one scale, one crosshair, their differences, and how alike they are in numbers.

import { bytes } from "./api.js";
import { endsOf, gradient } from "./colors.js";
import { byId, fileName, make, short, signed } from "./dom.js";
import { decode, nearestCell } from "./frames.js";
import { MapCanvas, loadPicture } from "./mapcanvas.js";
import { windowFacts } from "./pointing.js";

const MOST = 4;

export default class Compare {
  static html = `
      <div class="line"><h1>Compare</h1><span class="time">two to four maps, one scale, one crosshair</span><label class="check"><input type="checkbox" id="difference"> Differences</label><button type="button" id="compare-clear" class="plain">Clear</button></div>
      <div id="compared" class="compared"></div>
      <div class="scale wide"><span id="compare-low"></span><div class="bar-ground"><div id="compare-bar"></div></div><span id="compare-high"></span></div>
      <div id="figures" class="scroll"></div>`;

  /** @param {import("./main.js").Page} page */
  constructor(page) {
    this.page = page;
    this.count = page.link("compare").appendChild(make("span", { id: "n-compared" }));
    /** @type {string[]} run/key */ this.addresses = [];
    this.panels = [];
    byId("difference").addEventListener("change", () => { this._showPlanes(); this.page.changed(); });
    byId("compare-clear").addEventListener("click", () => this.set([]));
  }

  /** @param {string} address */
  add(address) {
    if (this.addresses.includes(address)) return;
    return this.set([...this.addresses, address].slice(-MOST));
  }

  /** @param {string[]} addresses */
  async set(addresses) {
    this.addresses = addresses.slice(0, MOST);
    this._count();
    this.page.changed();
    await this.draw();
  }

  _count() {
    this.count.textContent = this.addresses.length ? ` ${this.addresses.length}` : "";
  }

  /** Take over what an address says was put here, in whichever view. @param {Record<string, string>} at */
  keep(at) {
    this.addresses = (at.compared ?? "").split(" ").filter((each) => /^\d+\/[\w-]+$/.test(each));
    byId("difference").checked = at.difference === "1";
    this._count();
  }

  /** What of it stands in the address, beside the maps, which stand there in every view. */
  get facts() {
    return { difference: byId("difference").checked ? "1" : "", ...this.page.colors() };
  }

  open() {
    return this.draw();
  }

  async draw() {
    const home = byId("compared");
    const wanted = this.addresses.join();
    home.dataset.state = "asking";
    try {
      const frames = await Promise.all(this.addresses.map(async (address) => {
        const [run, key] = address.split("/");
        const frame = decode(await bytes(`/api/runs/${run}/maps/${key}/planes`));
        const picture = await loadPicture(`/api/images/${frame.image_id}/picture?size=768`).catch(() => null);
        return { address, frame, picture };
      }));
      const query = this.addresses.map((each) => `map=${encodeURIComponent(each)}`).join("&");
      this.against = frames.length > 1 ? decode(await bytes(`/api/compare.bin?${query}`)) : null;
      if (wanted !== this.addresses.join()) return;
      this.panels = frames.map((each, place) => this._panel(each, place));
      home.replaceChildren(...this.panels.map((each) => each.element));
      if (!frames.length) home.append(make("p", { className: "hint" }, "Nothing to compare yet: “Compare” beside a map or a run puts it here."));
      this._showPlanes();
      this._showFigures();
      home.dataset.state = "done";
    } catch (error) {
      home.dataset.state = "failed";
      this.page.trouble(error.message);
    }
  }

  _panel({ address, frame, picture }, place) {
    const canvas = make("canvas", { tabIndex: 0, role: "img", aria: { label: title(frame) } });
    const facts = make("dl", { className: "facts" });
    const [run, key] = address.split("/");
    const element = make("figure", { className: "panel", data: { map: address } },
      make("figcaption", {},
        make("a", { href: `?view=explain&run=${run}&map=${key}`, on: { click: (event) => { event.preventDefault(); this.page.open(Number(run), key); } } }, title(frame)),
        make("button", { type: "button", className: "plain", aria: { label: `Take ${title(frame)} out` }, on: { click: () => this.set(this.addresses.filter((each) => each !== address)) } }, "×"),
        make("span", { className: "time" }, `${frame.model} · ${frame.patch.join("×")} px, stride ${frame.stride.join("×")} · ${frame.quality}`)),
      canvas, facts);
    const map = new MapCanvas(canvas);
    map.setPicture(picture, frame);
    const point = (event) => {
      const at = map.placeOf(event);
      if (at) this._pointAt([at[0] / frame.model_size[0], at[1] / frame.model_size[1]]);
    };
    canvas.addEventListener("pointermove", point);
    canvas.addEventListener("pointerdown", point);
    canvas.addEventListener("keydown", (event) => {
      const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
      if (!step) return;
      event.preventDefault();
      const from = this.place ?? [0.5, 0.5];
      this._pointAt([0, 1].map((axis) => Math.max(0, Math.min(0.999, from[axis] + (step[axis] * frame.stride[axis]) / frame.model_size[axis]))));
    });
    return { element, map, frame, facts, place };
  }

  /** Point all maps at one place, given in shares of the picture's sides. */
  _pointAt(place) {
    this.place = place;
    for (const { map, frame, facts } of this.panels) {
      const at = [place[0] * frame.model_size[0], place[1] * frame.model_size[1]];
      const cell = nearestCell(frame, ...at);
      map.pointed = map.frame === frame ? cell : nearestCell(map.frame, ...at);
      map.draw();
      facts.replaceChildren(...windowFacts(frame, cell));
      facts.dataset.cell = cell.join();
    }
  }

  _showPlanes() {
    const differ = byId("difference").checked && this.against;
    const scale = { ...this.page.scale() };
    const planes = this.panels.map(({ frame, place }) => (differ && place ? this.against[`difference_${place}`] : frame.importance));
    for (const [place, panel] of this.panels.entries()) {
      panel.map.scale = scale;
      panel.map.shared = planes;
      const shown = differ && place ? { ...this.against, importance: planes[place] } : panel.frame;
      panel.map.setFrame(shown, planes[place]);
      panel.element.classList.toggle("difference", Boolean(differ && place));
    }
    if (this.place) this._pointAt(this.place);
    const ends = planes.length ? endsOf(scale, planes) : { up: 1, down: 1 };
    byId("compare-bar").style.background = gradient(scale, ends);
    byId("compare-low").textContent = planes.length ? signed(-ends.down) : "";
    byId("compare-high").textContent = planes.length ? signed(ends.up) : "";
    byId("compared").dataset.up = String(ends.up);
  }

  _showFigures() {
    const home = byId("figures");
    if (!this.against) return home.replaceChildren();
    const kinds = new Set(this.panels.map(({ frame }) => frame.score_kind));
    const head = make("tr", {}, ...["against the first", "SSIM", "rank correlation", "largest difference", "cells"].map((text, i) => make("th", i ? { className: "number" } : {}, text)));
    const rows = this.against.pairs.map((pair, i) =>
      make("tr", {}, make("td", {}, title(this.panels[i + 1].frame)),
        ...["ssim", "rank_correlation", "largest_difference"].map((name) => make("td", { className: "number", data: { figure: name } }, short(pair[name]))),
        make("td", { className: "number" }, String(pair.cells))));
    home.replaceChildren(make("table", {}, make("thead", {}, head), make("tbody", {}, ...rows)));
    if (kinds.size > 1) home.append(make("p", { className: "warning" }, `These maps show different scores (${[...kinds].join(", ")}): their numbers do not compare.`));
  }
}

const title = (frame) => `${fileName(frame.image)} · ${frame.class_name}`;
