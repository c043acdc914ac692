// Maps as they come from the server: a JSON head and planes of numbers. The format is that of obeql/web/map_frames.py.

/**
 * @typedef {object} Frame a map: facts of the head, and its planes, (rows, cols) row by row
 * @property {number[]} tops @property {number[]} lefts @property {number[]} heights @property {number[]} widths
 * @property {[number, number]} model_size
 * @property {Float32Array} importance @property {Float32Array} [scores]
 * @property {Int32Array} [top_class] @property {Uint8Array} [exact]
 */

const KINDS = { float32: Float32Array, int32: Int32Array, uint8: Uint8Array };

/** @param {ArrayBuffer} buffer @returns {any} the head, with each plane under its name */
export function decode(buffer) {
  const length = new DataView(buffer).getUint32(0, true);
  const head = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  let at = 4 + length;
  for (const plane of head.planes) {
    const Kind = KINDS[plane.kind];
    const cells = plane.shape[0] * plane.shape[1];
    head[plane.name] = new Kind(buffer, at, cells);
    at += Math.ceil((cells * Kind.BYTES_PER_ELEMENT) / 4) * 4;
  }
  return head;
}

/** The cell whose middle is nearest to a place of the model's input. @param {Frame} frame @param {number} y @param {number} x */
export function nearestCell(frame, y, x) {
  return [nearest(frame.tops, frame.heights, y), nearest(frame.lefts, frame.widths, x)];
}

function nearest(starts, lengths, position) {
  let best = 0;
  let least = Infinity;
  for (let i = 0; i < starts.length; i++) {
    const away = Math.abs(starts[i] + lengths[i] / 2 - position);
    if (away < least) [best, least] = [i, away];
  }
  return best;
}

/** The box (top, left, height, width) of a cell. @param {Frame} frame @param {number} row @param {number} col */
export const boxOf = (frame, row, col) => [frame.tops[row], frame.lefts[col], frame.heights[row], frame.widths[col]];

/**
 * For each pixel of the model's input the mean of the windows that cover it, NaN where none does that was computed.
 * @param {Frame} frame @param {Float32Array} plane @returns {Float32Array}
 */
export function pixelsOf(frame, plane) {
  const [height, width] = frame.model_size;
  const stride = width + 1;
  const sums = new Float64Array((height + 1) * stride);
  const counts = new Int32Array((height + 1) * stride);
  const cols = frame.lefts.length;
  for (let row = 0; row < frame.tops.length; row++) {
    const top = frame.tops[row] * stride;
    const bottom = (frame.tops[row] + frame.heights[row]) * stride;
    for (let col = 0; col < cols; col++) {
      const value = plane[row * cols + col];
      if (!Number.isFinite(value)) continue;
      const left = frame.lefts[col];
      const right = left + frame.widths[col];
      sums[top + left] += value; sums[top + right] -= value;
      sums[bottom + left] -= value; sums[bottom + right] += value;
      counts[top + left]++; counts[top + right]--;
      counts[bottom + left]--; counts[bottom + right]++;
    }
  }
  const pixels = new Float32Array(height * width);
  for (let y = 0; y < height; y++) {
    let sum = 0;
    let known = 0;
    for (let x = 0; x < width; x++) {
      const at = y * stride + x;
      sum += sums[at];
      known += counts[at];
      const above = y ? at - stride : -1;
      // sums[] holds, from here on, the running total of its column block
      sums[at] = sum + (above >= 0 ? sums[above] : 0);
      counts[at] = known + (above >= 0 ? counts[above] : 0);
      pixels[y * width + x] = counts[at] ? sums[at] / counts[at] : NaN;
    }
  }
  return pixels;
}
