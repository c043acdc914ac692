// The line above the map: what runs, how far it is, what is stated of the map, and how long it takes.

import { byId, count, duration } from "./dom.js";

/** States in which nobody can say how much is left. */
const UNCOUNTED = ["preparing", "asking", "upload", "drawing"];

export class Ribbon {
  constructor() {
    this.home = byId("ribbon");
  }

  /** @param {string} state @param {string} title @param {{bound?: string, time?: string, note?: string}} [more] */
  say(state, title, more = {}) {
    this.home.dataset.state = state;
    byId("ribbon-title").textContent = title;
    byId("ribbon-bound").textContent = more.bound ?? "";
    byId("ribbon-time").textContent = more.time ?? "";
    byId("ribbon-note").textContent = more.note ?? "";
    if (UNCOUNTED.includes(state)) byId("progress").removeAttribute("value");
    else if (state !== "running" && state !== "stopped") byId("progress").value = state === "done" ? 1 : 0;
  }

  /** Show the progress of a job that runs. @param {any} progress */
  running(progress) {
    if (progress.phase || progress.total === undefined) return this.say("preparing", progress.phase ? `${progress.phase} …` : "Beginning");
    const images = progress.n_images > 1 ? `image ${Math.min(progress.image + 1, progress.n_images)} of ${progress.n_images} · ` : "";
    this.say("running", `${images}${progress.done.toLocaleString("en")} of ${count(progress.total, one(progress.unit))}`, {
      bound: boundText(progress.bound, null, progress.stated),
      time: progress.seconds_left === null ? "" : `${duration(progress.seconds_left)} left · ${Math.round(progress.rate)}/s`,
      note: progress.reused ? `${progress.reused.toLocaleString("en")} taken from the database` : "",
    });
    byId("progress").value = progress.total ? progress.done / progress.total : 0;
  }

  /** Show that a job was stopped, and where. @param {any} job */
  stopped({ progress, outcome }) {
    const where = progress.total ? ` after ${progress.done.toLocaleString("en")} of ${count(progress.total, one(progress.unit))}` : "";
    this.say("stopped", `Stopped${where}`, { bound: byId("ribbon-bound").textContent, note: outcome.text ?? "" });
    byId("progress").value = progress.total ? progress.done / progress.total : 0;
  }

  /**
   * Show what a map that is done is of, what is stated of it, and how long its run took.
   * @param {string} title @param {any} frame @param {{time?: string, note?: string}} [more]
   */
  map(title, frame, more = {}) {
    this.say("done", title, { bound: frame.approx ? boundText(frame.bound, frame.confidence, frame.quality, frame.metric) : frame.quality, ...more });
  }
}

const one = (unit) => unit.replace(/s$/, "");

/** What a bound says, in words. */
function boundText(bound, confidence, stated, metric = null) {
  if (bound === null || bound === undefined) return stated ?? "";
  const name = metric ?? /^(ssim|pearson|top10pct|maxerr)/.exec(stated ?? "")?.[1] ?? "ssim";
  return `${name.toUpperCase()} ≥ ${Math.floor(bound * 1000) / 1000} at ${Math.round((confidence ?? 0.95) * 100)} %`;
}
