// Axes, marks and the tooltip that the two plots share.
function ticks(low, high, count, logarithmic) {
  if (logarithmic) {
    const found = [];
    const decades = Math.log10(high / low);
    const steps = decades > 4 ? [1] : decades > 1.2 ? [1, 3] : [1, 2, 3, 5, 7];
    for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power += 1) {
      for (const step of steps) {
        const value = step * 10 ** power;
        if (value >= low * 0.999 && value <= high * 1.001) found.push(value);
      }
    }
    const every = Math.ceil(found.length / Math.max(2, count));
    return found.filter((_, index) => index % every === 0);
  }
  const raw = (high - low) / Math.max(1, count);
  const base = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].map((factor) => factor * base).find((size) => size >= raw * 0.999) || raw;
  const found = [];
  for (let value = Math.ceil(low / step - 1e-9) * step; value <= high + step * 1e-9; value += step) found.push(value);
  return found;
}

// The range of some values with room around it.
function range(values, logarithmic) {
  let low = Math.min(...values);
  let high = Math.max(...values);
  if (logarithmic) {
    const room = Math.max(0.06 * Math.log10(high / low), 0.05);
    return [low / 10 ** room, high * 10 ** room];
  }
  const room = high > low ? 0.06 * (high - low) : Math.abs(high) * 0.05 || 1;
  return [low - room, high + room];
}

function scale([low, high], [from, to], logarithmic) {
  const turn = logarithmic ? Math.log10 : (value) => value;
  return (value) => from + ((turn(value) - turn(low)) / (turn(high) - turn(low))) * (to - from);
}

// An empty plot with axes in a holder, as wide as there is room.
function plot(holder, x, y) {
  const width = Math.max(280, holder.clientWidth);
  const height = Math.round(Math.min(460, Math.max(300, width * 0.52)));
  const box = { left: 58, right: width - 12, top: 12, bottom: height - 46 };
  const svg = drawn("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "group" });
  const toX = scale(x.range, [box.left, box.right], x.log);
  const toY = scale(y.range, [box.bottom, box.top], y.log);
  const axes = drawn("g", { class: "axes", "aria-hidden": "true" });
  for (const value of ticks(...x.range, (box.right - box.left) / 90, x.log)) {
    axes.append(drawn("line", { x1: toX(value), x2: toX(value), y1: box.top, y2: box.bottom }));
    axes.append(drawn("text", { x: toX(value), y: box.bottom + 17, "text-anchor": "middle" }, shown(value, x.unit)));
  }
  for (const value of ticks(...y.range, (box.bottom - box.top) / 55, y.log)) {
    axes.append(drawn("line", { x1: box.left, x2: box.right, y1: toY(value), y2: toY(value) }));
    axes.append(drawn("text", { x: box.left - 7, y: toY(value) + 4, "text-anchor": "end" }, shown(value, y.unit)));
  }
  const middle = (box.left + box.right) / 2;
  axes.append(drawn("text", { x: middle, y: height - 8, "text-anchor": "middle", class: "axis" }, x.label));
  const turned = `translate(13 ${(box.top + box.bottom) / 2}) rotate(-90)`;
  axes.append(drawn("text", { transform: turned, "text-anchor": "middle", class: "axis" }, y.label));
  svg.append(axes);
  holder.replaceChildren(svg);
  return { svg, box, toX, toY, width, height };
}

function mark(name, x, y, hollow) {
  const s = 5.5;
  const paths = [
    `M${x - s} ${y}a${s} ${s} 0 1 0 ${2 * s} 0a${s} ${s} 0 1 0 ${-2 * s} 0`,
    `M${x - s} ${y - s}h${2 * s}v${2 * s}h${-2 * s}Z`,
    `M${x} ${y - 1.3 * s}L${x + 1.2 * s} ${y + s}H${x - 1.2 * s}Z`,
    `M${x} ${y - 1.4 * s}L${x + 1.4 * s} ${y}L${x} ${y + 1.4 * s}L${x - 1.4 * s} ${y}Z`,
  ];
  return drawn("path", { d: paths[shape(name)], class: `mark h${hue(name)}${hollow ? " hollow" : ""}` });
}

const tip = element("div", { id: "tip", role: "status", hidden: true });

function showTip(lines, x, y) {
  tip.replaceChildren(...lines.map((line) => (line instanceof Node ? line : element("div", {}, line))));
  tip.hidden = false;
  const { width, height } = tip.getBoundingClientRect();
  const left = x + 14 + width > innerWidth - 8 ? x - 14 - width : x + 14;
  const top = y + 14 + height > innerHeight - 8 ? y - 14 - height : y + 14;
  tip.style.left = `${Math.max(6, Math.min(left, innerWidth - width - 6))}px`;
  tip.style.top = `${Math.max(6, top)}px`;
}

const hideTip = () => { tip.hidden = true; };

// Draw again when the room changes.
function follow(holder, draw) {
  let width = 0;
  new ResizeObserver(() => {
    if (Math.abs(holder.clientWidth - width) < 2) return;
    width = holder.clientWidth;
    draw();
  }).observe(holder);
}
