// What is on the screen, to take along: a link, the statement, the same in Python and on a command line, files.

import { byId, make } from "./dom.js";

export class Share {
  /** @param {any} state @param {() => {text: string, map: string|null, runId: number|null, scale: any, limit: number}} now */
  constructor(state, now) {
    this.file = state.file;
    this.now = now;
    this.dialog = byId("share");
    byId("share-open").addEventListener("click", () => this.open());
  }

  open() {
    const { text, map, runId, scale, limit } = this.now();
    const link = new URL(location.href);
    const texts = [["Link", link.href]];
    if (text) texts.push(["Statement", `${text};`], ["Python", python(this.file, text)], ["Command line", commandLine(this.file, text)]);
    byId("share-texts").replaceChildren(...texts.map(([name, value]) => row(name, value)));
    const shown = map !== null;
    const colors = new URLSearchParams({ limit: String(limit), alpha: String(Math.max(0.05, scale.opacity)), sign: ["positive", "negative"].includes(scale.range) ? scale.range : "all" });
    byId("save-png").href = shown ? `/api/runs/${map.replace("/", "/maps/")}/file.png?${colors}` : "";
    byId("save-npz").href = shown ? `/api/runs/${map.replace("/", "/maps/")}/file.npz` : "";
    byId("save-html").href = runId ? `/api/runs/${runId}/report.html` : "";
    for (const id of ["save-png", "save-npz", "save-html"]) byId(id).toggleAttribute("data-off", !shown);
    this.dialog.showModal();
  }
}

function row(name, value) {
  const area = make("textarea", { readOnly: true, value, rows: Math.min(8, value.split("\n").reduce((sum, line) => sum + Math.max(1, Math.ceil(line.length / 58)), 0)), aria: { label: name } });
  const button = make("button", { type: "button", on: { click: async () => {
    try {
      await navigator.clipboard.writeText(value);
    } catch {
      area.select();
      document.execCommand("copy");
    }
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  } } }, "Copy");
  return make("div", { className: "share-row", data: { share: name } }, make("b", {}, name), area, button);
}

/** @param {string} file @param {string} text */
export function python(file, text) {
  const quotes = text.includes('"""') ? "'''" : '"""';
  const path = file === ":memory:" ? "" : JSON.stringify(file);
  return `import obeql\n\nwith obeql.connect(${path}) as db:\n    result = db.execute(r${quotes}${text}${quotes})\n    print(result)`;
}

/** @param {string} file @param {string} text */
export function commandLine(file, text) {
  const quoted = (word) => (/^[\w./-]+$/.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`);
  return `obeql ${file === ":memory:" ? "" : `${quoted(file)} `}-c ${quoted(text)}`;
}
