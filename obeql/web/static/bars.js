// What the model says, as bars: of the image itself, and with a patch hidden, one over the other.

import { make, short, signed } from "./dom.js";

/**
 * @param {HTMLElement} home @param {any[]} classes of the image itself, highest first
 * @param {{hidden?: any[]|null, chosen?: string|null, onChoose?: (found: any) => void}} [options]
 */
export function drawBars(home, classes, options = {}) {
  const { hidden = null, chosen = null } = options;
  const now = new Map((hidden ?? []).map((each) => [each.class_id, each]));
  const shown = [...classes];
  for (const each of hidden ?? []) if (!shown.some((known) => known.class_id === each.class_id)) shown.push(each);
  const isValue = classes.length > 0 && classes[0].probability === null;
  const most = Math.max(1e-9, ...shown.map((each) => Math.abs(each.logit)), ...(hidden ?? []).map((each) => Math.abs(each.logit)));
  const share = (each) => (isValue ? Math.abs(each.logit) / most : each.probability);
  const first = (hidden ?? classes)[0]?.class_id;
  const rows = [...home.children];
  shown.slice(0, 8).forEach((each, place) => {
    const with_patch = now.get(each.class_id);
    const clean = classes.find((known) => known.class_id === each.class_id);
    const row = rows[place] ?? home.appendChild(newRow());
    const value = with_patch ?? clean ?? each;
    row.dataset.class = String(each.class_id);
    row.dataset.value = String(isValue ? value.logit : value.probability);
    row.classList.toggle("first", first === each.class_id);
    row.setAttribute("aria-pressed", String(chosen === each.class_name));
    row.title = `${each.class_name}: explain this class`;
    const [name, track, number] = row.children;
    name.textContent = each.class_name;
    const [ghost, bar] = track.children;
    ghost.style.width = clean ? `${100 * share(clean)}%` : "0";
    bar.style.width = `${100 * share(value)}%`;
    number.textContent = isValue ? short(value.logit) : percent(value.probability);
    row.onclick = () => options.onChoose?.(each);
    row.setAttribute("aria-label", `${each.class_name} ${number.textContent}${with_patch && clean ? `, ${signed(share(value) - share(clean))} with the patch` : ""}`);
  });
  for (const row of rows.slice(Math.min(8, shown.length))) row.remove();
}

function newRow() {
  return make("button", { type: "button", className: "bar" },
    make("span", { className: "name" }),
    make("span", { className: "track" }, make("i", { className: "ghost" }), make("i", { className: "fill" })),
    make("span", { className: "number" }));
}

/** @param {number} share */
export function percent(share) {
  if (share > 0 && share < 0.0005) return "<0.1 %";
  if (share > 0.9995 && share < 1) return ">99.9 %";
  return `${(100 * share).toFixed(1)} %`;
}
