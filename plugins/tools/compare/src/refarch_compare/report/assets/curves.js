// Learning curves of one setting: a figure over steps or seconds, the mean over runs with the range of the runs.
const FIRST_CURVES = 8; // so many are drawn at first; more are hard to tell apart

function curvesPlot() {
  const section = $("#curves");
  if (!Object.keys(data.curves).length) { section.hidden = true; return; }
  const [setting, metric, over] = [$("#curves-setting"), $("#curves-metric"), $("#curves-x")];
  const holder = $("#curves-plot");
  const drawnIds = new Set();
  const inSetting = () => data.results.filter((r) => r.setting === Number(setting.value) && data.curves[r.id]);
  const having = data.settings.map((item, index) => [index, item.title]).filter(([index]) =>
    data.results.some((result) => result.setting === index && data.curves[result.id]));
  options(setting, having);
  setting.closest("label").hidden = having.length < 2;
  const metrics = () => {
    const labels = [...new Set(inSetting().flatMap((result) => data.curves[result.id].map((curve) => curve.label)))];
    const own = data.settings[setting.value].metric;
    const first = labels.find((label) => label === `${own} (validation)`) || labels[0];
    options(metric, labels.map((label) => [label, label]), labels.includes(metric.value) ? metric.value : first);
    choose();
  };
  const choose = () => {
    drawnIds.clear();
    inSetting().filter(visible).slice(0, FIRST_CURVES).forEach((result) => drawnIds.add(result.id));
  };
  const draw = () => drawCurves(holder, inSetting().filter(visible), metric.value, over.value, drawnIds, draw);
  setting.addEventListener("change", () => { metrics(); draw(); });
  metric.addEventListener("change", draw);
  over.addEventListener("change", draw);
  $("#curves-all").addEventListener("click", () => { inSetting().filter(visible).forEach((r) => drawnIds.add(r.id)); draw(); });
  $("#curves-none").addEventListener("click", () => { drawnIds.clear(); draw(); });
  metrics();
  listeners.push(() => { choose(); draw(); });
  follow(holder, draw);
}

function drawCurves(holder, results, metric, over, drawnIds, redraw) {
  const every = results
    .map((result) => ({ result, curve: data.curves[result.id].find((curve) => curve.label === metric) }))
    .filter((item) => item.curve)
    .map((item) => ({ ...item, xs: over === "seconds" ? item.curve.seconds : item.curve.steps }))
    .filter((item) => item.xs.every((x) => x !== null));
  legend($("#curves-legend"), every, drawnIds, redraw);
  const lines = every.filter((item) => drawnIds.has(item.result.id));
  if (!lines.length) {
    holder.replaceChildren(element("p", { class: "empty" }, "No curve is chosen, or none that is shown has this figure."));
    return;
  }
  const x = { label: over, unit: over === "seconds" ? "seconds" : "count", log: false, range: range(lines.flatMap((l) => l.xs), false) };
  const y = { label: metric, unit: "number", log: false, range: range(lines.flatMap((l) => [...l.curve.low, ...l.curve.high]), false) };
  x.range[0] = Math.max(0, x.range[0]);
  const drawing = plot(holder, x, y);
  const { svg, toX, toY, box } = drawing;
  for (const { result, curve, xs } of lines) {
    if (curve.runs > 1) {
      const there = xs.map((v, i) => `${toX(v)} ${toY(curve.high[i])}`);
      const back = xs.map((v, i) => `${toX(v)} ${toY(curve.low[i])}`).reverse();
      svg.append(drawn("path", { class: `band h${hue(result.name)}`, d: `M${[...there, ...back].join("L")}Z` }));
    }
  }
  for (const { result, curve, xs } of lines) {
    const d = `M${xs.map((v, i) => `${toX(v)} ${toY(curve.mean[i])}`).join("L")}`;
    svg.append(drawn("path", { class: `curve stroke${hue(result.name)} dash${shape(result.name)}`, d, "data-id": result.id }));
    if (xs.length === 1) svg.append(mark(result.name, toX(xs[0]), toY(curve.mean[0]), result.imported));
  }
  const cursor = drawn("line", { class: "cursor", y1: box.top, y2: box.bottom, visibility: "hidden" });
  const cover = drawn("rect", { class: "cover", x: box.left, y: box.top, width: box.right - box.left, height: box.bottom - box.top });
  cover.addEventListener("pointermove", (event) => {
    const at = event.clientX - svg.getBoundingClientRect().left;
    readOff(lines, x, { at, toX, cursor }, event);
  });
  cover.addEventListener("pointerleave", () => { hideTip(); cursor.setAttribute("visibility", "hidden"); });
  svg.append(cursor, cover);
}

// The values of all curves at the point nearest to the pointer.
function readOff(lines, x, { at, toX, cursor }, event) {
  const near = (xs) => xs.reduce((best, value, index) => (Math.abs(toX(value) - at) < Math.abs(toX(xs[best]) - at) ? index : best), 0);
  const found = lines.map((line) => ({ ...line, index: near(line.xs) }));
  const nearest = found.reduce((a, b) => (Math.abs(toX(b.xs[b.index]) - at) < Math.abs(toX(a.xs[a.index]) - at) ? b : a));
  const place = nearest.xs[nearest.index];
  const here = found.filter((line) => Math.abs(toX(line.xs[line.index]) - toX(place)) < 12);
  here.sort((a, b) => b.curve.mean[b.index] - a.curve.mean[a.index]);
  cursor.setAttribute("x1", toX(place));
  cursor.setAttribute("x2", toX(place));
  cursor.setAttribute("visibility", "visible");
  const words = here.slice(0, 14).map(({ result, curve, index }) => {
    const spread = curve.runs > 1 ? ` (${precise(curve.low[index], 4)} to ${precise(curve.high[index], 4)}, ${curve.runs} runs)` : "";
    return element("div", {}, element("i", { class: `dot h${hue(result.name)}` }), ` ${result.name}: ${precise(curve.mean[index], 4)}${spread}`);
  });
  const more = here.length > 14 ? [`and ${here.length - 14} more`] : [];
  showTip([element("strong", {}, `${x.label} ${shown(place, x.unit)}`), ...words, ...more], event.clientX, event.clientY);
}

function legend(holder, lines, drawnIds, redraw) {
  const focused = document.activeElement?.dataset?.legend;
  holder.replaceChildren(...lines.map(({ result }) => {
    const on = drawnIds.has(result.id);
    const button = element("button", { type: "button", "aria-pressed": String(on), "data-legend": result.id },
      element("i", { class: `dot h${hue(result.name)}` }), ` ${result.name}${result.imported ? " (imported)" : ""}`);
    button.addEventListener("click", () => {
      if (on) drawnIds.delete(result.id);
      else drawnIds.add(result.id);
      redraw();
    });
    return button;
  }));
  if (focused) $(`[data-legend="${focused}"]`, holder)?.focus();
}
