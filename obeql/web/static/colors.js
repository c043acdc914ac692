// The colors of evidence: those of obeql/drawing/colors.py. Zero is clear; opacity grows with the evidence.

/** From weak to strong, for the class and against it; both pairs stay apart for the common kinds of color blindness. */
const PALETTES = {
  "vermilion–blue": [
    [[1.0, 0.66, 0.4], [1.0, 0.36, 0.16], [0.92, 0.05, 0.08]],
    [[0.45, 0.82, 1.0], [0.15, 0.58, 1.0], [0.1, 0.28, 0.95]],
  ],
  "orange–purple": [
    [[1.0, 0.82, 0.45], [0.98, 0.62, 0.13], [0.85, 0.4, 0.0]],
    [[0.8, 0.74, 0.98], [0.6, 0.45, 0.93], [0.38, 0.16, 0.75]],
  ],
};
export const PALETTE_NAMES = Object.keys(PALETTES);

/** @typedef {"symmetric"|"full"|"positive"|"negative"|"custom"} Range */
/** @type {[Range, string][]} */
export const RANGES = [
  ["symmetric", "symmetric"],
  ["full", "each sign to its end"],
  ["positive", "evidence for"],
  ["negative", "evidence against"],
  ["custom", "custom"],
];

/**
 * @typedef {object} Scale how importances become colors
 * @property {string} palette @property {Range} range @property {number} opacity @property {number|null} custom
 */

/** The ends of a scale for values: how far up, and how far down. @param {Scale} scale @param {ArrayLike<number>[]} planes */
export function endsOf(scale, planes) {
  let high = 0;
  let low = 0;
  for (const plane of planes)
    for (let i = 0; i < plane.length; i++) {
      const value = plane[i];
      if (value > high && value < Infinity) high = value;
      else if (value < low && value > -Infinity) low = value;
    }
  low = -low;
  if (scale.range === "custom" && scale.custom && scale.custom > 0) high = low = scale.custom;
  if (scale.range === "symmetric") high = low = Math.max(high, low);
  return { up: scale.range === "negative" ? 0 : high || 1, down: scale.range === "positive" ? 0 : low || 1 };
}

/** A table of 256 colors from clear to strong. */
function ramp(stops) {
  const table = new Uint8ClampedArray(256 * 4);
  for (let i = 0; i < 256; i++) {
    const along = (i / 255) * (stops.length - 1);
    const before = Math.min(Math.floor(along), stops.length - 2);
    for (let c = 0; c < 3; c++)
      table[i * 4 + c] = 255 * (stops[before][c] + (along - before) * (stops[before + 1][c] - stops[before][c]));
    table[i * 4 + 3] = i;
  }
  return table;
}

const ramps = Object.fromEntries(
  Object.entries(PALETTES).map(([name, [up, down]]) => [name, { up: ramp(up), down: ramp(down) }]),
);

/**
 * Color values into an image, opaque at the ends; opacity is added when it is drawn.
 * @param {ArrayLike<number>} values @param {{up: number, down: number}} ends @param {string} palette @param {Uint8ClampedArray} rgba
 */
export function paint(values, ends, palette, rgba) {
  const { up, down } = ramps[palette] ?? ramps[PALETTE_NAMES[0]];
  for (let i = 0; i < values.length; i++) {
    const value = values[i];
    const end = value < 0 ? ends.down : ends.up;
    const table = value < 0 ? down : up;
    const at = end && value === value ? Math.min(255, Math.round((Math.abs(value) / end) * 255)) * 4 : 0;
    for (let c = 0; c < 4; c++) rgba[i * 4 + c] = table[at + c];
  }
}

/** The scale from its low to its high end as a CSS gradient. @param {Scale} scale @param {{up: number, down: number}} ends */
export function gradient(scale, ends) {
  const { up, down } = ramps[scale.palette] ?? ramps[PALETTE_NAMES[0]];
  const stops = [];
  const low = ends.down ? -1 : 0;
  const high = ends.up ? 1 : 0;
  for (let i = 0; i <= 20; i++) {
    const value = low + ((high - low) * i) / 20;
    const table = value < 0 ? down : up;
    const at = Math.round(Math.abs(value) * 255) * 4;
    stops.push(`rgba(${table[at]}, ${table[at + 1]}, ${table[at + 2]}, ${((table[at + 3] / 255) * scale.opacity).toFixed(3)})`);
  }
  return `linear-gradient(to right, ${stops.join(", ")})`;
}

let hatches = null;
/** Slanted lines for what was not computed. @param {CanvasRenderingContext2D} context */
export function hatch(context) {
  if (!hatches) {
    hatches = document.createElement("canvas");
    hatches.width = hatches.height = 10;
    const c = hatches.getContext("2d");
    c.fillStyle = "rgba(128, 128, 128, 0.28)";
    c.fillRect(0, 0, 10, 10);
    for (const [shift, color] of [[0, "rgba(30, 30, 30, 0.55)"], [1.6, "rgba(235, 235, 235, 0.55)"]]) {
      c.strokeStyle = color;
      c.lineWidth = 1.4;
      c.beginPath();
      for (const from of [-10, 0, 10]) {
        c.moveTo(from + shift, 10);
        c.lineTo(from + 10 + shift, 0);
      }
      c.stroke();
    }
  }
  return context.createPattern(hatches, "repeat");
}
