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
    const side = make("div"), views = make("div", undefined, "views");
    if (map.views.length > 1) section.className = "wide";
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
    for (const [there, hatch, words] of [[map.views.some(view => view.slices.some(slice => slice.hatches)), data.hatch, data.not_computed], [map.has_outside, data.hatch_outside, data.outside]]) {
      if (!there) continue;
      const entry = make("span"), swatch = make("i");
      swatch.style.backgroundImage = `url(${hatch})`;
      entry.append(swatch, words);
      key.append(entry);
    }
    const table = make("table");
    const head = make("tr");
    for (const [name, kind] of [["#", "number"], [map.regions ? "region" : "cell"], [map.box_names.map(name => name[0] === "h" || name[0] === "w" || name[0] === "d" ? name[0] : name).join(", ")], ["importance", "number"], [map.score_kind, "number"], ["top class"]]) head.append(make("th", name, kind));
    table.append(head);
    // A place has a number an axis of the grid; windows that a query lists lie in one row of cells.
    const boxOf = place => {
      const at = map.regions ? place.map(() => place[place.length - 1]) : place;
      return [map.starts.map((along, k) => along[at[k]]), map.lengths.map((along, k) => along[at[k]])];
    };
    const valueAt = (plane, place) => place.reduce((part, i) => part[i], plane);
    const nameOf = place => map.regions ? map.regions[place[1]] : place.join(", ");
    // The smallest of the listed windows that hide a place; null where there is none.
    function regionAt(y, x) {
      let best = null, least = Infinity;
      map.regions.forEach((_, c) => {
        const [[top, left], [height, width]] = boxOf([0, c]);
        const row = Math.floor(y) - top, col = Math.floor(x) - left, size = height * width;
        const inside = row >= 0 && col >= 0 && row < height && col < width;
        if (inside && (!map.masks[c] || map.masks[c][row][col]) && size < least) [best, least] = [[0, c], size];
      });
      return best;
    }
    // An estimated cell has no winning class.
    const named = place => {
      const top = valueAt(map.top_class, place);
      return top < 0 ? "" : map.class_names[top] ?? top;
    };
    const mark = place => map.exact && !valueAt(map.exact, place) ? "~" : "";
    map.best.forEach((place, rank) => {
      const row = make("tr");
      row.append(make("td", rank + 1, "number"), make("td", nameOf(place)), make("td", boxOf(place).flat().join(", ")),
        make("td", mark(place) + signed(valueAt(map.importance, place)), "number"),
        make("td", short(valueAt(map.scores, place)), "number"), make("td", named(place)));
      row.onmouseenter = () => choose(place, true);
      table.append(row);
    });
    side.append(readout, bar, scale, key, table);
    if (map.best.some(mark)) side.append(make("p", "~ " + map.inexact, "detail"));
    if (map.warning) side.append(make("p", map.warning, "warning"));
    section.append(views, side);
    const beyond = map.has_outside ? await load(data.hatch_outside) : null;
    let chosen = map.best[0] ?? null;
    const panels = [];
    for (const view of map.views) panels.push(await panel(view));

    // One view of the map: a picture, of a volume a slice across one axis with a slider that goes through it.
    async function panel(view) {
      const figure = make("figure"), canvas = make("canvas"), caption = make("figcaption"), slider = make("input");
      figure.append(canvas);
      views.append(figure);
      const [height, width] = view.source_size, zoom = Math.min(4, Math.max(1, 480 / width)), zoomY = zoom * (view.aspect ?? 1);
      canvas.width = Math.round(width * zoom); canvas.height = Math.round(height * zoomY);
      const context = canvas.getContext("2d");
      const pattern = beyond && context.createPattern(beyond, "repeat");
      const [top, left, boxHeight, boxWidth] = view.model_box;
      const scaleY = boxHeight / view.model_size[0], scaleX = boxWidth / view.model_size[1];
      const flat = numbers => view.axis === null ? numbers : numbers.filter((_, k) => k !== view.axis);
      const loaded = new Map();
      let at = view.begin;
      async function pictures(slice) {
        if (!loaded.has(slice)) {
          const found = [slice.picture, slice.overlay, slice.hatches].map(uri => uri ? load(uri) : null);
          loaded.set(slice, await Promise.all(found));
        }
        return loaded.get(slice);
      }
      async function draw() {
        const slice = view.slices[at], [picture, overlay, hatches] = await pictures(slice);
        if (slice !== view.slices[at]) return;  // the slider went on meanwhile
        context.clearRect(0, 0, canvas.width, canvas.height);
        context.globalAlpha = 1;
        if (picture) context.drawImage(picture, 0, 0, canvas.width, canvas.height);
        colors.style.opacity = context.globalAlpha = Number(opacity.value);
        const seen = [left * zoom, top * zoomY, boxWidth * zoom, boxHeight * zoomY];
        context.drawImage(overlay, ...seen);
        context.globalAlpha = 1;
        if (hatches) context.drawImage(hatches, ...seen);
        if (pattern) {
          context.beginPath();
          context.rect(0, 0, canvas.width, canvas.height);
          context.rect(...seen);
          context.fillStyle = pattern;
          context.fill("evenodd");
        }
        if (!chosen || (view.axis !== null && chosen[view.axis] !== slice.plane)) return;
        const [[y, x], [h, w]] = boxOf(chosen).map(flat);
        const box = [(left + x * scaleX) * zoom, (top + y * scaleY) * zoomY, w * scaleX * zoom, h * scaleY * zoomY];
        context.lineWidth = 3; context.strokeStyle = "black"; context.strokeRect(...box);
        context.lineWidth = 1.2; context.strokeStyle = "white"; context.strokeRect(...box);
      }
      function turn(to) {
        at = Math.min(view.slices.length - 1, Math.max(0, to));
        slider.value = at;
        const few = view.slices.length < view.n_there ? ` (${view.slices.length} of ${view.n_there} are here)` : "";
        if (view.axis !== null) caption.textContent = `${view.name} ${view.slices[at].at}${few}`;
        return draw();
      }
      if (view.axis !== null) {
        Object.assign(slider, {type: "range", min: 0, max: view.slices.length - 1, ariaLabel: view.name});
        slider.oninput = () => turn(Number(slider.value));
        canvas.onwheel = event => { event.preventDefault(); turn(at + Math.sign(event.deltaY)); };
        figure.append(slider, caption);
      }
      canvas.onmousemove = event => {
        const place = canvas.getBoundingClientRect();
        const x = ((event.clientX - place.left) / place.width * width - left) / scaleX;
        const y = ((event.clientY - place.top) / place.height * height - top) / scaleY;
        if (map.regions) return choose(regionAt(y, x) ?? chosen);
        const [starts, lengths] = [flat(map.starts), flat(map.lengths)];
        const found = [nearest(starts[0], lengths[0], y), nearest(starts[1], lengths[1], x)];
        if (view.axis !== null) found.splice(view.axis, 0, view.slices[at].plane);
        choose(found);
      };
      canvas.onclick = () => chosen && choose(chosen, true);
      await turn(at);
      // Slices of a plane of windows: the middle one of those that are here.
      const reach = plane => {
        const there = view.slices.flatMap((slice, k) => slice.plane === plane ? [k] : []);
        if (there.length && !there.includes(at)) turn(there[Math.floor(there.length / 2)]);
      };
      return {draw, show: place => view.axis === null || reach(place[view.axis])};
    }
    function choose(place, follow) {
      if (!place) return;
      chosen = place;
      if (follow) panels.forEach(panel => panel.show(place));
      panels.forEach(panel => panel.draw());
      tell();
    }
    function tell() {
      const [starts, lengths] = boxOf(chosen), importance = valueAt(map.importance, chosen), known = importance !== null;
      const where = starts.map((start, k) => `${map.box_names[k]} ${start}`).join(", ");
      const estimated = known && mark(chosen) ? ` · ${map.inexact}` : "";
      readout.textContent = `${map.regions ? "region" : "cell"} ${nameOf(chosen)} · window ${where}, ${lengths.join(" x ")} ${map.unit}${estimated}\n` +
        `importance ${known ? mark(chosen) : ""}${signed(importance)}\n${map.score_kind} ${short(map.clean_score)} → ${short(valueAt(map.scores, chosen))}` +
        (named(chosen) ? `\nthe model then says ${named(chosen)}` : "");
    }
    redraws.push(() => panels.forEach(panel => panel.draw()));
    if (chosen) tell();
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
