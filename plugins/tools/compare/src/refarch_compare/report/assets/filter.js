// The filter: text, setting, and the values of structural properties. All parts of the page follow it.
function filters() {
  const form = $("#filter");
  for (const key of ["problem", "backbone", "origin"]) {
    const select = $(`#filter-${key}`);
    const values = [...new Set(data.settings.map((setting) => setting[key]))];
    options(select, [["", `any ${key === "problem" ? "task" : key}`], ...values.map((value) => [value, value])]);
    select.closest("label").hidden = values.length < 2;
    select.addEventListener("change", () => { state[key] = select.value; changed(); });
  }
  $("#filter-text").addEventListener("input", (event) => { state.text = event.target.value; changed(); });
  const holder = $("#filter-properties");
  for (const [name, values] of Object.entries(data.properties)) {
    const group = element("fieldset", { "data-property": name }, element("legend", {}, name));
    for (const value of values) {
      const box = element("input", { type: "checkbox", value });
      box.addEventListener("change", () => {
        const chosen = state.properties.get(name) || new Set();
        if (box.checked) chosen.add(value);
        else chosen.delete(value);
        state.properties.set(name, chosen);
        changed();
      });
      group.append(element("label", {}, box, ` ${value}`));
    }
    holder.append(group);
  }
  $("#filter-details").hidden = !holder.children.length;
  form.addEventListener("reset", () => {
    Object.assign(state, { text: "", problem: "", backbone: "", origin: "", properties: new Map() });
    changed();
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  listeners.push(() => {
    const count = data.results.filter(visible).length;
    $("#count").textContent = `${count} of ${data.results.length} results`;
    const chosen = [...state.properties.values()].reduce((sum, values) => sum + values.size, 0);
    $("#filter-details summary").textContent = "Filter by structural property" + (chosen ? ` (${chosen} chosen)` : "");
  });
}
