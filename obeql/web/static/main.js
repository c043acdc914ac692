// The page: the views that the server names, put together, and their state in the address.
//
// A view is the default class of a module here, named in `obeql/web/views.py`; it is made once, with the page. It has
//   html         its elements (static); none where index.html has them
//   facts        what of it stands in the address
//   open(at)     show it as the address `at` says; without one, as its link was clicked

import { get } from "./api.js";
import * as address from "./address.js";
import { byId, fileName, later, make } from "./dom.js";
import { Editor } from "./editor.js";
import { Share } from "./share.js";
import { themeSwitch } from "./theme.js";

/**
 * What views are given: what the server said at the start, and ways to each other.
 * @typedef {object} Page
 * @property {any} state as /api/state gives it
 * @property {(text: string) => void} trouble tell what went wrong
 * @property {() => void} changed the facts of a view are others now
 * @property {(view: string) => HTMLElement} link its link in the navigation
 * @property {(runId: number, key: string|null) => void} open a map
 * @property {(address: string) => void} compare put a map, `run/key`, beside others
 * @property {(runId: number) => void} sheet the maps of a run
 * @property {(text: string) => void} sql run a query
 * @property {() => any} scale how maps are colored
 * @property {() => Record<string, any>} colors the same as the address has it
 * @property {(outcome: any) => void} outcome show what a statement yields that is no map
 * @property {() => void} ended a statement has ended
 */

/** @type {Record<string, any>} the views by name, in the order of the navigation; the first one is what the page opens with */
const views = {};
/** @type {any[]} what the server says of them */
let rows = [];
let view = "";
let restoring = true;

/** The statement that was there when a trouble was told: it goes when the statement changes. */
let troubled = null;
let textNow = () => "";

function trouble(text) {
  troubled = textNow();
  byId("trouble-text").textContent = text;
  byId("trouble").hidden = false;
}

const link = (name) => document.querySelector(`#views a[data-view="${name}"]`);

function show(name) {
  const row = rows.find((each) => each.name === name) ?? rows[0];
  view = row.name;
  document.body.dataset.view = view;
  for (const each of rows) {
    byId(`view-${each.name}`).hidden = each !== row;
    const here = each.name === (row.under || view);
    link(each.name)?.toggleAttribute("data-here", here);
    if (here) link(each.name).setAttribute("aria-current", "page");
    else link(each.name)?.removeAttribute("aria-current");
  }
}

/** Make the elements of the views: a link, unless another view leads there, and a section. @param {any[]} modules */
function build(modules) {
  rows.forEach(({ name, title, under }, place) => {
    if (!under) byId("views").append(make("a", { href: `?view=${name}`, data: { view: name } }, title));
    if (byId(`view-${name}`)) return;
    const section = make("section", { id: `view-${name}`, className: "view", hidden: true, aria: { label: title } });
    section.innerHTML = modules[place].default.html;
    byId("main").append(section);
  });
}

/** Show what a statement yields that is no map: a table, a plan, a message. @param {any} outcome */
function showOutcome(outcome) {
  const home = byId("outcome");
  home.hidden = false;
  if (outcome.kind !== "table") return home.replaceChildren(make("pre", {}, outcome.text ?? "done"));
  const rows = outcome.rows.map((row) => make("tr", {}, ...row.map((value) => make("td", {}, value === null ? "" : typeof value === "object" ? JSON.stringify(value) : String(value)))));
  home.replaceChildren(make("table", {}, make("thead", {}, make("tr", {}, ...outcome.columns.map((name) => make("th", {}, name)))), make("tbody", {}, ...rows)));
}

async function begin() {
  themeSwitch(byId("theme"));
  byId("trouble-close").addEventListener("click", () => { byId("trouble").hidden = true; });
  const state = await get("/api/state");
  byId("file").textContent = state.file === ":memory:" ? "in memory, nothing is kept" : fileName(state.file);
  byId("file").title = state.file;
  document.title = state.file === ":memory:" ? "OBEQL" : `${fileName(state.file)} · OBEQL`;

  rows = state.views;
  const modules = await Promise.all(rows.map(({ module }) => import(`./${module}`)));
  build(modules);

  const saveSoon = later(120, (step) => { if (!restoring) address.write(facts(), step); });
  const save = (step = false) => saveSoon(step);
  /** @type {Page} */
  const page = {
    state, trouble, link, changed: () => save(), outcome: showOutcome,
    open: async (runId, key) => {
      show("explain");
      await views.explain.openRun(runId, key).catch((error) => trouble(error.message));
      save(true);
    },
    compare: (at) => views.compare.add(at),
    sheet: (runId) => { show("sheet"); save(true); views.sheet.show(runId); },
    sql: (text) => { show("sql"); views.sql.show(text); views.sql.run(); save(true); },
    scale: () => views.explain.map.scale,
    colors: () => views.explain.colors,
    ended: async () => {
      const now = await get("/api/state").catch(() => null);
      if (now) views.explain.refresh(now);
      if (view === "runs") views.runs.reload();
    },
  };
  rows.forEach(({ name }, place) => { views[name] = new modules[place].default(page); });

  const { explain, compare } = views;
  const editor = new Editor(byId("editor"), {
    label: "Statement", placeholder: "EXPLAIN OCCLUDE image USING model WITH patch=16 stride=4",
    onRun: () => run(),
    onChange: (facts, text) => {
      if (text !== troubled) byId("trouble").hidden = true; // what a run has said stays beside its statement
      explain.settings.show(facts.parts);
      explain.settings.planSoon();
      save();
    },
  });
  explain.editor = editor;
  textNow = () => editor.text;
  const run = () => {
    byId("outcome").hidden = true;
    if (view !== "explain") show("explain");
    explain.start();
  };
  byId("run").addEventListener("click", run);
  new Share(state, () => ({
    text: view === "sql" ? views.sql.text : editor.text, map: view === "explain" && explain.mapKey ? explain.address : null,
    runId: explain.run?.run_id ?? null, scale: explain.map.scale, limit: Math.max(explain.map.ends.up, explain.map.ends.down),
  }));

  /** The view that the page opens with is not named. */
  const facts = () => ({ view: view === rows[0].name ? "" : view, ...views[view].facts, compared: compare.addresses.join(" ") });

  async function restore() {
    restoring = true;
    const at = address.read();
    show(at.view ?? "");
    explain.keep(at);
    compare.keep(at);
    await views[view].open(at);
    restoring = false;
    save();
  }

  for (const each of document.querySelectorAll("#views a"))
    each.addEventListener("click", (event) => {
      if (event.ctrlKey || event.metaKey) return;
      event.preventDefault();
      show(each.dataset.view);
      views[view].open();
      save(true);
    });
  window.addEventListener("popstate", restore);
  explain.refresh(state);
  await restore();
  if (document.body.dataset.state === "starting") document.body.dataset.state = "idle";
}

begin().catch((error) => {
  document.body.dataset.state = "failed";
  trouble(error.message);
  throw error;
});
