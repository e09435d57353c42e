// The table of results: sorted by a click on a column's head, columns chosen, what is shown saved as CSV.
function cellValue(result, column) {
  const setting = data.settings[result.setting];
  if (column === "name") return result.name;
  if (column === "score") return result.mean;
  if (column in setting) return setting[column];
  if (column.startsWith("property:")) return (result.properties[column.slice(9)] || []).join(", ") || null;
  return result.figures[column.slice(7)] ?? null; // figure:NAME
}

function compareValues(a, b) {
  if (a === null || b === null) return a === b ? 0 : a === null ? 2 : -2; // what is missing stands last, either way
  if (typeof a === "number" && typeof b === "number") return Math.sign(a - b);
  return String(a).localeCompare(String(b), "en", { numeric: true }) < 0 ? -1 : String(a) === String(b) ? 0 : 1;
}

function sortRows(table, column, descending) {
  const body = table.tBodies[0];
  const rows = [...body.rows].map((row, position) => ({ row, position, value: cellValue(byId.get(row.dataset.id), column) }));
  rows.sort((one, other) => {
    const order = compareValues(one.value, other.value);
    const turned = Math.abs(order) === 2 ? order : descending ? -order : order;
    return turned || one.position - other.position;
  });
  body.append(...rows.map((item) => item.row));
  for (const head of table.tHead.rows[0].cells) {
    if (head.dataset.column === column) head.setAttribute("aria-sort", descending ? "descending" : "ascending");
    else head.removeAttribute("aria-sort");
  }
}

function resultsTable() {
  const table = $("#results-table");
  for (const head of table.tHead.rows[0].cells) {
    const button = $("button", head);
    button.addEventListener("click", () => {
      const column = head.dataset.column;
      const first = column === "score" ? "descending" : "ascending"; // the way that is asked for most
      const now = head.getAttribute("aria-sort");
      sortRows(table, column, now ? now === "ascending" : first === "descending");
    });
  }
  const boxes = $("#columns");
  for (const head of table.tHead.rows[0].cells) {
    if (!head.dataset.optional) continue;
    const column = head.dataset.column;
    const box = element("input", { type: "checkbox", value: column, checked: !head.hidden });
    box.addEventListener("change", () => {
      const index = head.cellIndex;
      for (const row of table.rows) row.cells[index].hidden = !box.checked;
    });
    boxes.append(element("label", {}, box, ` ${head.textContent.trim()}`));
  }
  listeners.push(() => {
    for (const row of table.tBodies[0].rows) row.hidden = !visible(byId.get(row.dataset.id));
  });
  $("#save-csv").addEventListener("click", () => save("results.csv", "text/csv", csv(table)));
}

function csv(table) {
  const heads = [...table.tHead.rows[0].cells].filter((head) => !head.hidden);
  const columns = heads.map((head) => head.dataset.column);
  const at = columns.indexOf("score") + 1;
  const head = heads.map((cell) => cell.textContent.trim());
  head.splice(at, 0, "low", "high", "runs");
  const lines = [head];
  for (const row of table.tBodies[0].rows) {
    if (row.hidden) continue;
    const result = byId.get(row.dataset.id);
    const values = columns.map((column) => cellValue(result, column));
    values.splice(at, 0, result.low, result.high, result.n);
    lines.push(values);
  }
  const quoted = (value) => (/[",\n\r]/.test(value) ? `"${value.replaceAll('"', '""')}"` : value);
  return lines.map((line) => line.map((value) => quoted(value === null ? "" : String(value))).join(",") + "\n").join("");
}

function save(name, type, text) {
  const link = element("a", { href: URL.createObjectURL(new Blob([text], { type })), download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}
