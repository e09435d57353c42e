// Two figures against each other in one setting, with the Pareto front: what nothing else beats on both.
function front(points, lessX, lessY) {
  const signX = lessX ? 1 : -1;
  const signY = lessY ? 1 : -1;
  const sorted = [...points].sort((a, b) => signX * (a.x - b.x) || signY * (a.y - b.y));
  const found = [];
  for (const point of sorted) {
    const last = found.at(-1);
    const better = !last || signY * point.y < signY * last.y || (point.x === last.x && point.y === last.y);
    if (better) found.push(point);
  }
  return found;
}

function valueAt(result, key) {
  return key === "score" ? result.mean : result.figures[key.slice(7)] ?? null; // figure:NAME
}

function tradeoff() {
  const holder = $("#tradeoff-plot");
  const setting = $("#tradeoff-setting");
  const selects = { x: $("#tradeoff-x"), y: $("#tradeoff-y") };
  const boxes = { logX: $("#tradeoff-log-x"), logY: $("#tradeoff-log-y"), lessX: $("#tradeoff-less-x"), lessY: $("#tradeoff-less-y") };
  options(setting, data.settings.map((item, index) => [index, item.title]));
  setting.closest("label").hidden = data.settings.length < 2;
  const figures = [["score", "score"], ...data.figures.map((figure) => [figure.key, figure.label])];
  options(selects.x, figures, figureOf("figure:trainable_parameters") ? "figure:trainable_parameters" : "score");
  options(selects.y, figures, "score");
  const less = (name) => (name === "score" ? !data.settings[setting.value].greater : figureOf(name).less);
  const wide = (name) => {
    const values = data.results.map((result) => valueAt(result, name)).filter((value) => value !== null);
    return values.length > 0 && Math.min(...values) > 0 && Math.max(...values) / Math.min(...values) > 20;
  };
  const reset = (axis) => {
    boxes[`less${axis.toUpperCase()}`].checked = less(selects[axis].value);
    boxes[`log${axis.toUpperCase()}`].checked = wide(selects[axis].value);
  };
  const draw = () => drawTradeoff(holder, Number(setting.value), selects, boxes);
  for (const axis of ["x", "y"]) {
    reset(axis);
    selects[axis].addEventListener("change", () => { reset(axis); draw(); });
  }
  setting.addEventListener("change", () => { reset("x"); reset("y"); draw(); });
  for (const box of Object.values(boxes)) box.addEventListener("change", draw);
  listeners.push(draw);
  follow(holder, draw);
}

function drawTradeoff(holder, setting, selects, boxes) {
  const [nameX, nameY] = [selects.x.value, selects.y.value];
  const inside = data.results.filter((result) => result.setting === setting && visible(result));
  const points = inside
    .map((result) => ({ result, x: valueAt(result, nameX), y: valueAt(result, nameY) }))
    .filter((point) => point.x !== null && point.y !== null)
    .filter((point) => (!boxes.logX.checked || point.x > 0) && (!boxes.logY.checked || point.y > 0));
  const note = $("#tradeoff-note");
  const missing = inside.length - points.length;
  if (!points.length) {
    holder.replaceChildren(element("p", { class: "empty" }, "No result that is shown has both figures in this setting."));
    note.textContent = "";
    return;
  }
  const metric = data.settings[setting].metric;
  const axis = (name, log, less) => ({
    label: `${name === "score" ? metric : figureOf(name).label} (${less ? "less" : "more"} is better)`,
    unit: name === "score" ? "number" : figureOf(name).unit,
    log,
  });
  const x = axis(nameX, boxes.logX.checked, boxes.lessX.checked);
  const y = axis(nameY, boxes.logY.checked, boxes.lessY.checked);
  const ends = (point) => (nameY === "score" && point.result.low !== null ? [point.result.low, point.result.high] : [point.y]);
  x.range = range(points.map((point) => point.x), x.log);
  y.range = range(points.flatMap(ends).filter((value) => !y.log || value > 0), y.log);
  const drawing = plot(holder, x, y);
  const best = front(points, boxes.lessX.checked, boxes.lessY.checked);
  if (best.length > 1) drawing.svg.append(drawn("path", { class: "front", d: stairs(best, drawing) }));
  drawPoints(points, new Set(best), drawing, { x, y, nameX, nameY });
  const onFront = [...new Set(best.map((point) => point.result.name))].join(", ");
  note.textContent =
    `On the front: ${onFront}.` +
    (missing ? ` ${missing} of ${inside.length} results lack one of the figures.` : "") +
    " The front is of means; bars are intervals over runs, and points whose bars overlap may not differ.";
}

function stairs(best, { toX, toY }) {
  return best.map((p, i) => (i ? `H${toX(p.x)}V${toY(p.y)}` : `M${toX(p.x)} ${toY(p.y)}`)).join("");
}

function drawPoints(points, best, { svg, toX, toY, box }, { x, y, nameX, nameY }) {
  const taken = points.map((point) => ({ x: toX(point.x) - 6, y: toY(point.y) - 6, w: 12, h: 12 }));
  const labels = [];
  for (const point of [...points].sort((a, b) => best.has(b) - best.has(a))) {
    const { result } = point;
    const [px, py] = [toX(point.x), toY(point.y)];
    if (nameY === "score" && result.low !== null && !y.log) {
      svg.append(drawn("path", { class: `bar stroke${hue(result.name)}`, d: `M${px} ${toY(result.low)}V${toY(result.high)}` }));
    }
    const node = mark(result.name, px, py, result.imported);
    node.setAttribute("tabindex", "0");
    node.setAttribute("role", "img");
    node.dataset.id = result.id;
    if (best.has(point)) node.classList.add("best");
    const lines = [
      element("strong", {}, result.name),
      result.settings,
      `${x.label.split(" (")[0]}: ${nameX === "score" ? scoreInWords(result) : shown(point.x, x.unit)}`,
      `${y.label.split(" (")[0]}: ${nameY === "score" ? scoreInWords(result) : shown(point.y, y.unit)}`,
      best.has(point) ? "on the front" : "",
      result.imported ? data.settings[result.setting].origin : "",
    ].filter((line) => line);
    node.setAttribute("aria-label", lines.map((line) => line.textContent ?? line).join("; "));
    node.addEventListener("pointerenter", (event) => showTip(lines, event.clientX, event.clientY));
    node.addEventListener("pointerleave", hideTip);
    node.addEventListener("focus", () => requestAnimationFrame(() => { // after the scrolling that focus brings
      const place = node.getBoundingClientRect();
      if (document.activeElement === node) showTip(lines, place.right, place.bottom);
    }));
    node.addEventListener("blur", hideTip);
    node.addEventListener("click", () => { location.hash = `#of-${result.id}`; });
    svg.append(node);
    const wide = 6.6 * result.name.length;
    const spots = [[px + 9, py + 4], [px - 9 - wide, py + 4], [px - wide / 2, py - 10], [px - wide / 2, py + 20]];
    const free = spots.map(([lx, ly]) => ({ x: lx, y: ly - 11, w: wide, h: 14 })).find(
      (one) => one.x > box.left && one.x + one.w < box.right && one.y > box.top && one.y + one.h < box.bottom &&
        !taken.some((other) => one.x < other.x + other.w && other.x < one.x + one.w && one.y < other.y + other.h && other.y < one.y + one.h),
    );
    if (!free) continue;
    taken.push(free);
    labels.push(drawn("text", { x: free.x, y: free.y + 11, class: "label" }, result.name));
  }
  svg.append(...labels);
}
