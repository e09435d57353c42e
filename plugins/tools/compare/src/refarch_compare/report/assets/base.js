// What all parts of the page share: the data, numbers in words, the filter's state, small helpers.
const data = JSON.parse(document.getElementById("data").textContent);
const byId = new Map(data.results.map((result) => [result.id, result]));
const names = [...new Set(data.results.map((result) => result.name))];
const figureOf = (key) => data.figures.find((figure) => figure.key === key);

const $ = (selector, root = document) => root.querySelector(selector);
const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];

function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) node.setAttribute(name, "");
    else if (value !== false && value != null) node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

function drawn(tag, attributes = {}, text = null) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (text !== null) node.textContent = text;
  return node;
}

function options(select, entries, chosen) {
  select.replaceChildren(...entries.map(([value, label]) => element("option", { value }, label)));
  if (chosen !== undefined) select.value = chosen;
}

const hue = (name) => names.indexOf(name) % 8;
const shape = (name) => Math.floor(names.indexOf(name) / 8) % 4;

// Numbers in words, as the tables have them from Python: report/figures.py.
function precise(value, digits) {
  return String(Number(value.toPrecision(digits)));
}

function shown(value, unit) {
  if (value === null || value === undefined) return "";
  const size = Math.abs(value);
  if (unit === "seconds") {
    if (size >= 3600) return `${precise(value / 3600, 3)} h`;
    if (size >= 60) return `${precise(value / 60, 3)} min`;
    return size >= 1 ? `${precise(value, 3)} s` : `${precise(value * 1000, 3)} ms`;
  }
  if (unit === "number" || size < 1000) return precise(value, 4) + (unit === "bytes" ? " B" : "");
  const [scale, letter] = [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]].find(([s]) => size >= 0.9995 * s) || [1, ""];
  return `${precise(value / scale, 3)} ${letter}${unit === "bytes" ? "B" : ""}`;
}

function scoreInWords(result) {
  const range = result.low === null ? "" : ` (${precise(result.low, 4)} to ${precise(result.high, 4)})`;
  return `${precise(result.mean, 4)}${range}, ${result.n} ${result.n === 1 ? "run" : "runs"}`;
}

// What is shown: a result that every filter lets through.
const state = { text: "", problem: "", backbone: "", origin: "", properties: new Map() };
const listeners = [];

function visible(result) {
  const setting = data.settings[result.setting];
  const words = `${result.name} ${result.technique} ${result.settings} ${setting.title}`.toLowerCase();
  if (!state.text.toLowerCase().split(/\s+/).every((word) => words.includes(word))) return false;
  if (["problem", "backbone", "origin"].some((key) => state[key] && setting[key] !== state[key])) return false;
  for (const [name, values] of state.properties) {
    if (values.size && !(result.properties[name] || []).some((value) => values.has(value))) return false;
  }
  return true;
}

function changed() {
  for (const listener of listeners) listener();
}
