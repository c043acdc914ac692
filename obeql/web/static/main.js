// The page: its views put together, and its state in the address.

import { get } from "./api.js";
import * as address from "./address.js";
import { Compare } from "./compare.js";
import { byId, fileName, later, make } from "./dom.js";
import { Editor } from "./editor.js";
import { Explain } from "./explain.js";
import { Runs } from "./runs.js";
import { Share } from "./share.js";
import { Sheet } from "./sheet.js";
import { SqlTab } from "./sqltab.js";
import { themeSwitch } from "./theme.js";

const VIEWS = ["explain", "runs", "sheet", "compare", "sql"];
let view = "explain";
let restoring = true;

/** The statement that was there when a trouble was told: it goes when the statement changes. */
let troubled = null;
let textNow = () => "";

function trouble(text) {
  troubled = textNow();
  byId("trouble-text").textContent = text;
  byId("trouble").hidden = false;
}

function show(name) {
  view = VIEWS.includes(name) ? name : "explain";
  document.body.dataset.view = view;
  for (const each of VIEWS) byId(`view-${each}`).hidden = each !== view;
  for (const link of document.querySelectorAll("nav a")) {
    const here = link.dataset.view === view || (link.dataset.view === "runs" && view === "sheet");
    link.toggleAttribute("data-here", here);
    if (here) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
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

  const saveSoon = later(120, (step) => { if (!restoring) address.write(facts(), step); });
  const save = (step = false) => saveSoon(step);
  const openMap = async (runId, key) => {
    show("explain");
    try {
      await explain.openRun(runId, key);
    } catch (error) {
      trouble(error.message);
    }
    save(true);
  };
  const openSheet = (runId) => { show("sheet"); save(true); sheet.open(runId); };
  const explain = new Explain(state, {
    trouble, changed: () => save(), sheet: openSheet, outcome: showOutcome,
    compare: (at) => { compare.add(at); },
    ended: async () => {
      const now = await get("/api/state").catch(() => null);
      if (now) explain.refresh(now);
      if (view === "runs") runs.reload();
    },
  });
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
  const runs = new Runs({ open: openMap, compare: (at) => compare.add(at), sheet: openSheet, trouble });
  const compare = new Compare({ trouble, changed: () => save(), open: openMap, scale: () => explain.map.scale });
  const sheet = new Sheet(state, { open: openMap, trouble, changed: () => save(), sql: (text) => { show("sql"); sql.open(text); sql.run(); save(true); } });
  const sql = new SqlTab(state, { trouble, changed: () => save(), open: openMap });
  new Share(state, () => ({
    text: view === "sql" ? sql.text : editor.text, map: view === "explain" && explain.mapKey ? explain.address : null,
    runId: explain.run?.run_id ?? null, scale: explain.map.scale, limit: Math.max(explain.map.ends.up, explain.map.ends.down),
  }));

  function facts() {
    const { scale } = explain.map;
    const colors = { opacity: scale.opacity === 0.75 ? "" : scale.opacity, range: scale.range === "symmetric" ? "" : scale.range, ends: scale.range === "custom" ? scale.custom : "", colors: scale.palette === "vermilion–blue" ? "" : scale.palette };
    const compared = compare.addresses.join(" ");
    switch (view) {
      case "runs": return { view, compared };
      case "sheet": return { view, ...sheet.facts, compared };
      case "compare": return { view, compared, difference: byId("difference").checked ? "1" : "", ...colors };
      case "sql": return { view, sql: sql.text, compared };
    }
    const of = explain.jobId ? { job: explain.jobId } : explain.run ? { run: explain.run.run_id, map: explain.mapKey } : {};
    return { ...of, statement: editor.text, image: explain.image?.image_id, model: explain.model, compared, ...colors };
  }

  async function restore() {
    restoring = true;
    const at = address.read();
    show(at.view ?? "explain");
    for (const [id, value] of [["opacity", at.opacity], ["range", at.range], ["custom", at.ends], ["palette", at.colors]])
      if (value) {
        byId(id).value = value;
        byId(id).dispatchEvent(new Event("input"));
      }
    byId("difference").checked = at.difference === "1";
    const compared = (at.compared ?? "").split(" ").filter((each) => /^\d+\/[\w-]+$/.test(each));
    compare.addresses = compared;
    byId("n-compared").textContent = compared.length ? ` ${compared.length}` : "";
    if (view === "compare") await compare.draw();
    if (view === "runs") await runs.reload();
    if (view === "sheet") await sheet.open(Number(at.run), at);
    if (view === "sql") sql.open(at.sql ?? "");
    if (view === "explain") await restoreExplain(at);
    restoring = false;
    save();
  }

  async function restoreExplain(at) {
    const { jobs } = await get("/api/jobs");
    const going = jobs.find((each) => String(each.job_id) === at.job) ?? (at.run ? undefined : jobs.find((each) => ["running", "waiting"].includes(each.state)));
    if (at.model) explain.settings.model = at.model;
    if (at.image) {
      const { images } = await get("/api/images", { most: 1000 });
      explain.image = images.find((each) => String(each.image_id) === at.image) ?? null;
      if (explain.image) await explain.showPicture();
    }
    if (at.statement ?? going?.text) await editor.setText(at.statement ?? going.text);
    if (editor.facts.parts) explain.settings.show(editor.facts.parts);
    if (going) {
      explain.attach(going);
      if (explain.image) explain.askQuietly();
    } else if (at.run) await explain.openRun(Number(at.run), at.map ?? null, { keepText: Boolean(at.statement) }).catch((error) => trouble(error.message));
    else if (explain.image && explain.model) explain.askQuietly();
    explain.settings.planSoon();
  }

  for (const link of document.querySelectorAll("nav a"))
    link.addEventListener("click", (event) => {
      if (event.ctrlKey || event.metaKey) return;
      event.preventDefault();
      show(link.dataset.view);
      if (view === "runs") runs.reload();
      if (view === "compare") compare.draw();
      if (view === "sql") sql.open("");
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
