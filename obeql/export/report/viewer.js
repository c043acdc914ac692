// What a report and the notebook's widget show of `data`, which `report.py` makes: every map over its image, and the
// numbers of the window under the pointer. `root` is an empty element; the promise is kept once all is drawn.
async function viewer(root, data) {
  const make = (name, text, kind) => {
    const element = document.createElement(name);
    if (text !== undefined) element.textContent = text;
    if (kind) element.className = kind;
    return element;
  };
  const short = value => value === null ? "not computed" : Number(value.toPrecision(4)).toString();
  const signed = value => value === null ? "not computed" : (value > 0 ? "+" : "") + short(value);
  const opacity = make("input"), label = make("label", "opacity of the maps "), control = make("p"), maps = make("div");
  Object.assign(opacity, { type: "range", min: 0, max: 1, step: 0.05, value: data.alpha });
  label.append(opacity);
  control.append(label);
  root.classList.add("obeql");
  root.append(make("h1", data.title), make("p", data.facts, "detail"), control, maps);
  const redraws = [];

  function nearest(starts, lengths, position) {
    let best = 0;
    for (let i = 1; i < starts.length; i++)
      if (Math.abs(starts[i] + lengths[i] / 2 - position) < Math.abs(starts[best] + lengths[best] / 2 - position)) best = i;
    return best;
  }

  function load(uri) {
    return new Promise(done => { const image = new Image(); image.onload = () => done(image); image.src = uri; });
  }

  async function show(map) {
    const section = make("section");
    maps.append(section);
    section.append(make("h2", map.title), make("div", map.detail, "detail"), make("div", map.quality, "detail"));
    const canvas = make("canvas");
    const side = make("div");
    const readout = make("div", map.regions ? "Point at the map: each place shows the smallest region that holds it." : "Point at the map: each place shows the window whose centre is nearest.", "readout");
    // The colors are transparent: the upper half shows them over black, the lower half over white.
    const bar = make("div", undefined, "bar"), colors = make("div");
    colors.style.background = `linear-gradient(to right, ${data.scale.join(", ")})`;
    bar.append(colors);
    const scale = make("div", undefined, "scale");
    const end = (part, word, arrow) => part ? arrow(`${signed(part * map.limit)}`, word) : "0";
    scale.append(make("span", end(data.span[0], map.ends[0], (value, word) => `${value} ← ${word}`)),
      make("span", map.scale_text), make("span", end(data.span[1], map.ends[1], (value, word) => `${word} → ${value}`)));
    const key = make("div", undefined, "key");
    for (const [there, hatch, words] of [[map.hatches, data.hatch, data.not_computed], [map.has_outside, data.hatch_outside, data.outside]]) {
      if (!there) continue;
      const entry = make("span"), swatch = make("i");
      swatch.style.backgroundImage = `url(${hatch})`;
      entry.append(swatch, words);
      key.append(entry);
    }
    const table = make("table");
    const head = make("tr");
    for (const [name, kind] of [["#", "number"], [map.regions ? "region" : "cell"], ["top, left, h, w"], ["importance", "number"], [map.score_kind, "number"], ["top class"]]) head.append(make("th", name, kind));
    table.append(head);
    // Windows that a query lists have a top and a height each, in one row of cells.
    const down = (cell) => map.regions ? cell[1] : cell[0];
    const rowOf = (cell) => [map.tops[down(cell)], map.lefts[cell[1]], map.heights[down(cell)], map.widths[cell[1]]];
    const placeOf = ([r, c]) => map.regions ? map.regions[c] : `${r}, ${c}`;
    // The smallest of the listed windows that hide a place; null where there is none.
    function regionAt(y, x) {
      let best = null, least = Infinity;
      map.regions.forEach((_, c) => {
        const row = Math.floor(y) - map.tops[c], col = Math.floor(x) - map.lefts[c], size = map.heights[c] * map.widths[c];
        const inside = row >= 0 && col >= 0 && row < map.heights[c] && col < map.widths[c];
        if (inside && (!map.masks[c] || map.masks[c][row][col]) && size < least) [best, least] = [[0, c], size];
      });
      return best;
    }
    // An estimated cell has no winning class.
    const named = (r, c) => map.top_class[r][c] < 0 ? "" : map.class_names[map.top_class[r][c]] ?? map.top_class[r][c];
    const mark = (r, c) => map.exact && !map.exact[r][c] ? "~" : "";
    map.best.forEach((cell, rank) => {
      const row = make("tr"), [r, c] = cell;
      row.append(make("td", rank + 1, "number"), make("td", placeOf(cell)), make("td", rowOf(cell).join(", ")),
        make("td", mark(r, c) + signed(map.importance[r][c]), "number"), make("td", short(map.scores[r][c]), "number"), make("td", named(r, c)));
      row.onmouseenter = () => draw(cell);
      table.append(row);
    });
    side.append(readout, bar, scale, key, table);
    if (map.best.some(([r, c]) => mark(r, c))) side.append(make("p", "~ " + map.inexact, "detail"));
    if (map.warning) side.append(make("p", map.warning, "warning"));
    section.append(canvas, side);
    const [height, width] = map.source_size, zoom = Math.min(4, Math.max(1, 480 / width));
    canvas.width = Math.round(width * zoom); canvas.height = Math.round(height * zoom);
    const context = canvas.getContext("2d");
    const picture = map.picture ? await load(map.picture) : null;
    const overlay = await load(map.overlay);
    const hatches = map.hatches ? await load(map.hatches) : null;
    const beyond = map.has_outside ? context.createPattern(await load(data.hatch_outside), "repeat") : null;
    const [top, left, boxHeight, boxWidth] = map.model_box;
    const scaleY = boxHeight / map.model_size[0], scaleX = boxWidth / map.model_size[1];
    let chosen = null;
    function draw(cell) {
      if (cell !== undefined) chosen = cell;
      context.clearRect(0, 0, canvas.width, canvas.height);
      context.globalAlpha = 1;
      if (picture) context.drawImage(picture, 0, 0, canvas.width, canvas.height);
      colors.style.opacity = context.globalAlpha = Number(opacity.value);
      const seen = [left * zoom, top * zoom, boxWidth * zoom, boxHeight * zoom];
      context.drawImage(overlay, ...seen);
      context.globalAlpha = 1;
      if (hatches) context.drawImage(hatches, ...seen);
      if (beyond) {
        context.beginPath();
        context.rect(0, 0, canvas.width, canvas.height);
        context.rect(...seen);
        context.fillStyle = beyond;
        context.fill("evenodd");
      }
      if (!chosen) return;
      const [r, c] = chosen, [y, x, h, w] = rowOf(chosen);
      const box = [(left + x * scaleX) * zoom, (top + y * scaleY) * zoom, w * scaleX * zoom, h * scaleY * zoom];
      context.lineWidth = 3; context.strokeStyle = "black"; context.strokeRect(...box);
      context.lineWidth = 1.2; context.strokeStyle = "white"; context.strokeRect(...box);
      const known = map.importance[r][c] !== null;
      const estimated = known && mark(r, c) ? ` · ${map.inexact}` : "";
      readout.textContent = `${map.regions ? "region" : "cell"} ${placeOf(chosen)} · window top ${y}, left ${x}, ${h} x ${w} px${estimated}\n` +
        `importance ${known ? mark(r, c) : ""}${signed(map.importance[r][c])}\n${map.score_kind} ${short(map.clean_score)} → ${short(map.scores[r][c])}` +
        (named(r, c) ? `\nthe model then says ${named(r, c)}` : "");
    }
    canvas.onmousemove = event => {
      const place = canvas.getBoundingClientRect();
      const x = ((event.clientX - place.left) / place.width * width - left) / scaleX;
      const y = ((event.clientY - place.top) / place.height * height - top) / scaleY;
      draw(map.regions ? regionAt(y, x) ?? undefined : [nearest(map.tops, map.heights, y), nearest(map.lefts, map.widths, x)]);
    };
    redraws.push(() => draw());
    draw(map.best[0]);
  }

  opacity.oninput = () => redraws.forEach(redraw => redraw());
  for (const map of data.maps) await show(map);
  if (data.failures.length) root.append(make("h2", "Images that could not be explained"));
  for (const [name, error] of data.failures) root.append(make("p", `${name}: ${error}`, "warning"));
  if (data.plan) {
    const plan = make("details");
    plan.append(make("summary", "The plan that was carried out"), make("pre", data.plan));
    root.append(plan);
  }
}
