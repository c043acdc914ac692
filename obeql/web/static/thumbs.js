// Small maps for lists: fetched when they come into view, a few at a time, and drawn once.

import { bytes } from "./api.js";
import { decode } from "./frames.js";
import { MapCanvas, loadPicture } from "./mapcanvas.js";
import { make } from "./dom.js";

/** Maps that are fetched at the same time. */
const AT_ONCE = 4;
let running = 0;
/** @type {(() => Promise<void>)[]} */
const waiting = [];

function next() {
  while (running < AT_ONCE && waiting.length) {
    running += 1;
    waiting.pop()().catch(() => undefined).finally(() => { running -= 1; next(); });
  }
}

const observer = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (!entry.isIntersecting) continue;
    observer.unobserve(entry.target);
    const load = entry.target.load;
    // What came into view last is looked at: it goes first.
    waiting.push(async () => { if (entry.target.isConnected) await load(); });
  }
  next();
}, { rootMargin: "300px" });

/**
 * A canvas that shows a map over its picture once it is looked at.
 * @param {number} runId @param {string} key @param {number} imageId @param {(frame: any) => void} [drawn]
 */
export function thumb(runId, key, imageId, drawn) {
  const canvas = make("canvas", { className: "thumb", width: 96, height: 96, data: { drawn: "no" }, aria: { hidden: "true" } });
  canvas.load = async () => {
    const map = new MapCanvas(canvas);
    const [buffer, picture] = await Promise.all([
      bytes(`/api/runs/${runId}/maps/${key}/planes`),
      loadPicture(`/api/images/${imageId}/picture?size=256`).catch(() => null),
    ]);
    const frame = decode(buffer);
    map.setPicture(picture, frame);
    map.setFrame(frame);
    canvas.dataset.drawn = "map";
    drawn?.(frame);
  };
  observer.observe(canvas);
  return canvas;
}
