// The pointer and the keys on a map: a window under it, a pinned one, a region that is dragged, the patch of a hand.

import { post } from "./api.js";
import { byId, make, oneAtATime, short, signed } from "./dom.js";
import { boxOf, nearestCell } from "./frames.js";

/** A drag of fewer pixels of the screen is a click. */
const CLICK_PX = 5;

export class Pointing {
  /** @param {any} view the Explain view */
  constructor(view) {
    this.view = view;
    this.map = view.map;
    this.dragging = null;
    this.last = null;
    this.frames = [];
    this._probe = oneAtATime((box) => this._ask(box));
    const { canvas } = this.map;
    canvas.addEventListener("pointermove", (event) => this._move(event));
    canvas.addEventListener("pointerdown", (event) => this._down(event));
    canvas.addEventListener("pointerup", (event) => this._up(event));
    canvas.addEventListener("pointercancel", () => this._drop());
    canvas.addEventListener("pointerleave", () => { if (!this.dragging) this._away(); });
    canvas.addEventListener("keydown", (event) => this._key(event));
    canvas.addEventListener("wheel", (event) => this._wheel(event), { passive: false });
    window.addEventListener("keydown", (event) => { if (event.key === "Shift" && this.last) this._hand(this.last); });
    window.addEventListener("keyup", (event) => { if (event.key === "Shift") this._liftHand(); });
    this.handSize = null;
  }

  // ---- the pointer

  _move(event) {
    const place = this.map.placeOf(event);
    if (!place) return;
    this.last = place;
    if (this.dragging) return this._drag(place, event);
    if (this._isHand(event)) return this._hand(place);
    if (this.map.hand) this._liftHand();
    this._point(place);
  }

  /** Whether the pointer moves the patch: with Shift, or where that is ticked, as for fingers. */
  _isHand(event) {
    return event.shiftKey || byId("hand-mode").checked;
  }

  _point(place) {
    const { frame, placement } = this.map;
    const inside = placement && place[0] >= 0 && place[1] >= 0 && place[0] < placement.model_size[0] && place[1] < placement.model_size[1];
    this.map.pointed = frame && inside ? nearestCell(frame, place[0], place[1]) : null;
    this.map.draw();
    this.show();
  }

  _away() {
    this.last = null;
    this.map.pointed = null;
    this._liftHand();
    this.map.draw();
    this.show();
  }

  _down(event) {
    if (event.button !== 0 || !this.map.placement) return;
    if (this._isHand(event)) {
      this.last = this.map.placeOf(event);
      return this._hand(this.last);
    }
    this.map.canvas.setPointerCapture(event.pointerId);
    const from = this.map.placeOf(event);
    const { region } = this.map;
    const holds = region && from[0] >= region[0] && from[0] < region[0] + region[2] && from[1] >= region[1] && from[1] < region[1] + region[3];
    this.dragging = { from, screen: [event.clientX, event.clientY], moved: false, held: holds ? region : null };
  }

  _drag(place, event) {
    const { dragging } = this;
    const far = Math.hypot(event.clientX - dragging.screen[0], event.clientY - dragging.screen[1]);
    if (!dragging.moved && far < CLICK_PX) return;
    dragging.moved = true;
    this.map.region = dragging.held
      ? this._shifted(dragging.held, place[0] - dragging.from[0], place[1] - dragging.from[1])
      : this._between(dragging.from, place);
    this.map.draw();
    this.view.change({ region: this.map.region });
  }

  _up(event) {
    const { dragging } = this;
    this.dragging = null;
    if (!dragging) return;
    if (dragging.moved) return void this.view.setRegion(this.map.region);
    const place = this.map.placeOf(event);
    this._point(place);
    this._pin();
  }

  _drop() {
    this.dragging = null;
  }

  _wheel(event) {
    if (!this._isHand(event) || !this.last) return;
    event.preventDefault();
    const most = Math.min(...this.map.placement.model_size);
    const now = this.handSize ?? this.view.numbers.patch;
    const step = (event.deltaY || event.deltaX) > 0 ? -1 : 1;
    this.handSize = Math.max(2, Math.min(most, now + step * Math.max(1, Math.round(now / 8))));
    this._hand(this.last);
  }

  // ---- boxes

  _size() {
    return this.map.placement.model_size;
  }

  /** The box between two places, at least a patch on each side, inside the model's input. */
  _between(a, b) {
    const patch = this.view.numbers.patch;
    return [0, 1].map((axis) => {
      const most = this._size()[axis];
      const low = Math.max(0, Math.min(most, Math.round(Math.min(a[axis], b[axis]))));
      const high = Math.max(0, Math.min(most, Math.round(Math.max(a[axis], b[axis]))));
      const length = Math.min(most, Math.max(patch, high - low));
      return [Math.min(low, most - length), length];
    }).reduce((box, [start, length], axis) => { box[axis] = start; box[axis + 2] = length; return box; }, [0, 0, 0, 0]);
  }

  _shifted(box, down, right) {
    const [height, width] = this._size();
    return [
      Math.max(0, Math.min(height - box[2], Math.round(box[0] + down))),
      Math.max(0, Math.min(width - box[3], Math.round(box[1] + right))), box[2], box[3],
    ];
  }

  // ---- the hand

  _hand(place) {
    if (!this.map.placement || !this.view.says.length) return;
    const side = Math.min(this.handSize ?? this.view.numbers.patch, ...this._size());
    const [height, width] = this._size();
    const box = [
      Math.max(0, Math.min(height - side, Math.round(place[0] - side / 2))),
      Math.max(0, Math.min(width - side, Math.round(place[1] - side / 2))), side, side,
    ];
    this.map.hand = box;
    this.map.draw();
    this._probe(box);
  }

  async _ask(box) {
    const { view } = this;
    const said = await post("/api/probe", { model: view.model, image: view.imageKey, fill: view.parts?.fill ?? "mean", box, asked: view.says.map((each) => each.class_id) })
      .catch((error) => ({ error: error.message }));
    if (!this.map.hand) return;
    if (said.error) return void view.calls.trouble(said.error);
    if (said.busy) return void (byId("bars-hint").textContent = "The model is at work on a statement; the patch waits.");
    view.drawBars(said.classes);
    byId("bars-hint").textContent = `${box[2]}×${box[3]} at ${box[0]}, ${box[1]} hidden: ${said.top_class}${oddsText(view.says[0], said.classes)}. The wheel changes the size.`;
    byId("bars").dataset.box = box.join(",");
    byId("bars").dataset.ms = String(said.ms);
  }

  _liftHand() {
    if (!this.map.hand) return;
    this.map.hand = null;
    this.map.draw();
    this.view.drawBars();
    byId("bars-hint").textContent = "Hold Shift over the picture: the patch moves with your hand, and the bars follow.";
  }

  // ---- keys

  _key(event) {
    const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (!this.map.placement) return;
    if (event.key === "Escape") {
      if (this.map.region) this.view.setRegion(null);
      this.map.pinned = null;
      this._liftHand();
      this.map.draw();
      this.show();
    } else if (event.key === "Enter") this._pin();
    else if (event.key.toLowerCase() === "r" && !event.ctrlKey && !event.metaKey) this._beginRegion();
    else if ((event.key === "+" || event.key === "-") && this.map.region) this._grow(event.key === "+" ? 1 : -1);
    else if (step && event.shiftKey) this._handBy(step);
    else if (step) this._arrow(step);
    else return;
    event.preventDefault();
  }

  _arrow([down, right]) {
    const by = this.view.numbers.stride;
    if (this.map.region) return void this.view.setRegion(this._shifted(this.map.region, down * by, right * by));
    const { frame } = this.map;
    if (!frame) return;
    const [row, col] = this.map.pointed ?? this.map.pinned ?? frame.best?.[0] ?? [0, 0];
    this.map.pointed = [
      Math.max(0, Math.min(frame.tops.length - 1, row + down)),
      Math.max(0, Math.min(frame.lefts.length - 1, col + right)),
    ];
    this.map.draw();
    this.show();
  }

  _handBy([down, right]) {
    const by = this.view.numbers.stride;
    const [height, width] = this._size();
    const from = this.last ?? [height / 2, width / 2];
    this.last = [Math.max(0, Math.min(height, from[0] + down * by)), Math.max(0, Math.min(width, from[1] + right * by))];
    this._hand(this.last);
  }

  _beginRegion() {
    const [height, width] = this._size();
    const at = this.map.pointed && this.map.frame ? boxOf(this.map.frame, ...this.map.pointed) : [height / 2, width / 2, 0, 0];
    const [y, x] = [at[0] + at[2] / 2, at[1] + at[3] / 2];
    this.view.setRegion(this._between([y - height / 6, x - width / 6], [y + height / 6, x + width / 6]));
  }

  _grow(by) {
    const [top, left, height, width] = this.map.region;
    const d = by * this.view.numbers.stride;
    this.view.setRegion(this._between([top - d, left - d], [top + Math.max(1, height + d), left + Math.max(1, width + d)]));
  }

  // ---- the window under the pointer, in words

  _pin() {
    const { pointed, pinned } = this.map;
    this.map.pinned = pinned && pointed && pinned.join() === pointed.join() ? null : pointed;
    this.map.draw();
    this.show();
  }

  /** Say what is known of the window under the pointer, else of the pinned one. */
  show() {
    const { frame, pointed, pinned } = this.map;
    const home = byId("probe");
    const cell = pointed ?? pinned;
    byId("probe-kind").textContent = pinned && cell && pinned.join() === cell.join() ? "pinned" : pointed && pinned ? "under the pointer; one is pinned" : "";
    if (!frame || !cell) {
      home.replaceChildren(make("dd", { className: "hint" }, frame ? "Point at the map; a click pins a window." : "No map yet."));
      home.dataset.cell = "";
      return;
    }
    home.replaceChildren(...windowFacts(frame, cell));
    home.dataset.cell = cell.join();
    home.dataset.importance = String(frame.importance[cell[0] * frame.lefts.length + cell[1]]);
  }
}

/** How the log-odds of the first class change, which probabilities near 1 do not show. */
function oddsText(clean, classes) {
  const now = classes.find((each) => each.class_id === clean.class_id);
  if (!now || clean.log_odds === null) return "";
  return ` (log-odds of ${clean.class_name} ${short(clean.log_odds)} → ${short(now.log_odds)})`;
}

/** What a map says of one window, as rows of a list. @param {any} frame @param {[number, number]} cell */
export function windowFacts(frame, [row, col]) {
  const at = row * frame.lefts.length + col;
  const importance = frame.importance[at];
  const known = Number.isFinite(importance);
  const estimated = known && frame.exact && !frame.exact[at] ? "~" : "";
  const facts = [
    ["window", `${boxOf(frame, row, col).slice(0, 2).join(", ")} · ${frame.heights[row]}×${frame.widths[col]} px`],
    ["importance", known ? estimated + signed(importance) : "not computed"],
  ];
  if (known && frame.scores) facts.push([frame.score_kind.replace("_", "-"), `${short(frame.clean_score)} → ${short(frame.scores[at])}`]);
  const top = frame.top_class?.[at] ?? -1;
  if (top >= 0) facts.push(["then says", frame.class_names?.[top] ?? String(top)]);
  return facts.flatMap(([word, value]) => [make("dt", {}, word), make("dd", {}, value)]);
}
