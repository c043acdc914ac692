// A map over its picture on a canvas, with a region, a pinned window, a crosshair and the patch of a hand.
//
// Places are pixels of the model's input; `source` says where that lies in the picture.

import { boxOf, pixelsOf } from "./frames.js";
import { endsOf, hatch, paint } from "./colors.js";

/**
 * @typedef {[number, number, number, number]} Box top, left, height, width
 * @typedef {object} Placement
 * @property {[number, number]} source_size @property {Box} model_box @property {[number, number]} model_size
 */

export class MapCanvas {
  /** @param {HTMLCanvasElement} canvas */
  constructor(canvas) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
    /** @type {ImageBitmap|HTMLImageElement|null} */
    this.picture = null;
    /** @type {Placement|null} */
    this.placement = null;
    /** @type {any} the map that is shown, as `frames.decode` gives it */
    this.frame = null;
    /** @type {Float32Array|null} */
    this.plane = null;
    this.scale = { palette: "vermilion–blue", range: "symmetric", opacity: 0.75, custom: null };
    this.ends = { up: 1, down: 1 };
    /** @type {ArrayLike<number>[]|null} planes that share the scale; null: this one alone */
    this.shared = null;
    /** @type {Box|null} */ this.region = null;
    /** @type {[number, number]|null} row and column of the window under the pointer */
    this.pointed = null;
    /** @type {[number, number]|null} */ this.pinned = null;
    /** @type {Box|null} */ this.hand = null;
    this._overlay = document.createElement("canvas");
    this._mask = document.createElement("canvas");
    this._hatched = document.createElement("canvas");
    this._pixels = null;
    this._asked = false;
    new ResizeObserver(() => this.draw()).observe(canvas);
  }

  /** @param {any} picture @param {Placement} placement */
  setPicture(picture, placement) {
    this.picture = picture;
    this.placement = placement;
    this.canvas.style.setProperty("--ratio", String(placement.source_size[1] / placement.source_size[0]));
    this.draw();
  }

  /** @param {any} frame @param {Float32Array} [plane] */
  setFrame(frame, plane = frame?.importance) {
    this.frame = frame;
    this.plane = frame ? plane : null;
    this._pixels = frame ? pixelsOf(frame, plane) : null;
    this.recolor();
  }

  /** Color the map anew: the scale has changed, or the maps that share it. */
  recolor() {
    if (this.frame && this._pixels) {
      this.ends = endsOf(this.scale, this.shared ?? [this.plane]);
      const [height, width] = this.frame.model_size;
      for (const canvas of [this._overlay, this._mask]) [canvas.width, canvas.height] = [width, height];
      const colors = new ImageData(width, height);
      paint(this._pixels, this.ends, this.scale.palette, colors.data);
      this._overlay.getContext("2d").putImageData(colors, 0, 0);
      const unknown = new ImageData(width, height);
      let some = false;
      for (let i = 0; i < this._pixels.length; i++)
        if (this._pixels[i] !== this._pixels[i]) {
          unknown.data[i * 4 + 3] = 255;
          some = true;
        }
      this._mask.getContext("2d").putImageData(unknown, 0, 0);
      this._hasUnknown = some;
    }
    this.draw();
  }

  /** Draw before the next frame of the screen. */
  draw() {
    if (this._asked) return;
    this._asked = true;
    requestAnimationFrame(() => {
      this._asked = false;
      this._draw();
    });
  }

  _draw() {
    const { canvas, context, placement } = this;
    const shown = canvas.getBoundingClientRect();
    if (!shown.width || !placement) return;
    const ratio = Math.min(2, window.devicePixelRatio || 1);
    const width = Math.round(shown.width * ratio);
    const height = Math.round(shown.height * ratio);
    if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, width, height);
    context.imageSmoothingEnabled = true;
    context.imageSmoothingQuality = "high";
    if (this.picture) context.drawImage(this.picture, 0, 0, width, height);
    const zoomY = height / placement.source_size[0];
    const zoomX = width / placement.source_size[1];
    const [top, left, boxHeight, boxWidth] = placement.model_box;
    const seen = [left * zoomX, top * zoomY, boxWidth * zoomX, boxHeight * zoomY];
    if (this.frame) {
      context.globalAlpha = this.scale.opacity;
      context.drawImage(this._overlay, ...seen);
      context.globalAlpha = 1;
      if (this._hasUnknown) this._drawUnknown(seen, ratio);
    }
    const px = (/** @type {Box} */ box) => [
      seen[0] + (box[1] / placement.model_size[1]) * seen[2],
      seen[1] + (box[0] / placement.model_size[0]) * seen[3],
      (box[3] / placement.model_size[1]) * seen[2],
      (box[2] / placement.model_size[0]) * seen[3],
    ];
    if (this.hand) {
      context.fillStyle = "rgba(110, 110, 110, 0.92)";
      context.fillRect(...px(this.hand));
      this._frame(px(this.hand), ratio, "#ffd34d");
    }
    if (this.region) this._drawRegion(px(this.region), width, height, ratio);
    if (this.frame && this.pinned) {
      this._frame(px(boxOf(this.frame, ...this.pinned)), ratio, "#ffd34d");
    }
    if (this.frame && this.pointed && !this.hand) this._frame(px(boxOf(this.frame, ...this.pointed)), ratio, "#ffffff");
  }

  _drawUnknown(seen, ratio) {
    const layer = this._hatched;
    [layer.width, layer.height] = [Math.max(1, Math.round(seen[2] / ratio)), Math.max(1, Math.round(seen[3] / ratio))];
    const context = layer.getContext("2d");
    context.imageSmoothingEnabled = false;
    context.drawImage(this._mask, 0, 0, layer.width, layer.height);
    context.globalCompositeOperation = "source-in";
    context.fillStyle = hatch(context);
    context.fillRect(0, 0, layer.width, layer.height);
    this.context.drawImage(layer, ...seen);
  }

  _drawRegion(box, width, height, ratio) {
    const { context } = this;
    context.beginPath();
    context.rect(0, 0, width, height);
    context.rect(...box);
    context.fillStyle = "rgba(0, 0, 0, 0.28)";
    context.fill("evenodd");
    context.setLineDash([6 * ratio, 4 * ratio]);
    this._frame(box, ratio, "#ffffff");
    context.setLineDash([]);
  }

  _frame(box, ratio, color) {
    const { context } = this;
    context.lineWidth = 3.5 * ratio;
    context.strokeStyle = "rgba(0, 0, 0, 0.75)";
    context.strokeRect(...box);
    context.lineWidth = 1.6 * ratio;
    context.strokeStyle = color;
    context.strokeRect(...box);
  }

  /** The place of a pointer in pixels of the model's input, [y, x], which may lie outside. @param {{clientX: number, clientY: number}} event */
  placeOf(event) {
    const { placement } = this;
    if (!placement) return null;
    const shown = this.canvas.getBoundingClientRect();
    const y = ((event.clientY - shown.top) / shown.height) * placement.source_size[0];
    const x = ((event.clientX - shown.left) / shown.width) * placement.source_size[1];
    const [top, left, height, width] = placement.model_box;
    return [((y - top) / height) * placement.model_size[0], ((x - left) / width) * placement.model_size[1]];
  }
}

/** A placement for a picture that is the model's input itself. @param {[number, number]} size @returns {Placement} */
export const wholeInput = (size) => ({ source_size: size, model_size: size, model_box: [0, 0, size[0], size[1]] });

/** Load a picture. @param {string} address @returns {Promise<HTMLImageElement>} */
export function loadPicture(address) {
  return new Promise((done, failed) => {
    const image = new Image();
    image.onload = () => done(image);
    image.onerror = () => failed(new Error("the picture cannot be shown"));
    image.src = address;
  });
}
