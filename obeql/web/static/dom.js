// Small helpers for elements and numbers; every other module builds on these.

/**
 * Make an element.
 * @param {string} name its tag
 * @param {Record<string, any>} [facts] properties; `data`, `on` and `aria` are objects of such
 * @param {...(Node|string|null|undefined)} children
 * @returns {HTMLElement}
 */
export function make(name, facts = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(facts)) {
    if (key === "data") Object.assign(element.dataset, value);
    else if (key === "on") for (const [event, call] of Object.entries(value)) element.addEventListener(event, call);
    else if (key === "aria") for (const [word, text] of Object.entries(value)) element.setAttribute(`aria-${word}`, text);
    else if (key === "role" || key === "for") element.setAttribute(key, value);
    else element[key] = value;
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** @param {string} id @returns {any} the element of that id */
export const byId = (id) => document.getElementById(id);

/** A number in about four digits. @param {number|null|undefined} value */
export function short(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e5)) return value.toExponential(2);
  return Number(value.toPrecision(4)).toString();
}

/** As `short`, with its sign. @param {number|null|undefined} value */
export const signed = (value) => (typeof value === "number" && value > 0 ? "+" : "") + short(value);

/** Seconds in words. @param {number|null|undefined} seconds */
export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 0.0995) return `${Math.max(1, Math.round(seconds * 1000))} ms`;
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 100) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return `${(seconds / 3600).toFixed(1)} h`;
}

/** Bytes in words. @param {number|null|undefined} bytes */
export function size(bytes) {
  if (bytes === null || bytes === undefined) return "–";
  return bytes < 1e9 ? `${Math.max(1, Math.round(bytes / 1e6))} MB` : `${(bytes / 1e9).toFixed(1)} GB`;
}

/** @param {number} value @param {string} noun */
export const count = (value, noun) => `${value.toLocaleString("en")} ${noun}${value === 1 ? "" : "s"}`;

/** The last part of a path. @param {string} path */
export const fileName = (path) => path.split("/").pop() || path;

/**
 * Call `call` once, so many milliseconds after the last request.
 * @param {number} ms @param {(...values: any[]) => void} call
 */
export function later(ms, call) {
  let timer = 0;
  return (/** @type {any[]} */ ...values) => {
    clearTimeout(timer);
    timer = window.setTimeout(() => call(...values), ms);
  };
}

/**
 * Let one call of an asynchronous function run at a time; of those asked for meanwhile the last one follows.
 * @param {(...values: any[]) => Promise<void>} call
 */
export function oneAtATime(call) {
  let running = false;
  /** @type {any[]|null} */
  let next = null;
  return async (/** @type {any[]} */ ...values) => {
    next = values;
    if (running) return;
    running = true;
    try {
      while (next) {
        const now = next;
        next = null;
        await call(...now);
      }
    } finally {
      running = false;
    }
  };
}
