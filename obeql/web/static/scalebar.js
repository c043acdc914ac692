// The controls of color and the scale below the map; both are the browser's own affair.

import { PALETTE_NAMES, RANGES, gradient } from "./colors.js";
import { byId, make, short, signed } from "./dom.js";

export class ScaleBar {
  /** @param {import("./mapcanvas.js").MapCanvas} map @param {() => void} changed */
  constructor(map, changed) {
    this.map = map;
    this.changed = changed;
    byId("range").append(...RANGES.map(([value, text]) => make("option", { value }, text)));
    byId("palette").append(...PALETTE_NAMES.map((name) => make("option", { value: name }, name)));
    for (const id of ["opacity", "range", "palette", "custom"]) byId(id).addEventListener("input", () => this._take());
    this._take();
  }

  _take() {
    const { scale, ends } = this.map;
    scale.opacity = Number(byId("opacity").value);
    scale.range = byId("range").value;
    scale.palette = byId("palette").value;
    scale.custom = Number(byId("custom").value) || null;
    byId("custom-label").hidden = scale.range !== "custom";
    if (scale.range === "custom" && !scale.custom) byId("custom").value = short((scale.custom = Math.max(ends.up, ends.down)));
    byId("opacity-out").textContent = `${Math.round(scale.opacity * 100)} %`;
    this.map.recolor();
    this.draw();
    this.changed();
  }

  /** Draw the scale of the map that is shown. */
  draw() {
    const { ends, scale, frame } = this.map;
    byId("scale-bar").style.background = gradient(scale, ends);
    byId("scale-low").textContent = frame ? (ends.down ? signed(-ends.down) : "0") : "";
    byId("scale-high").textContent = frame ? (ends.up ? signed(ends.up) : "0") : "";
  }
}
