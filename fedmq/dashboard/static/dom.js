// Elements out of data. Text is only ever text: names and texts come from strangers.

export const at = (id) => document.getElementById(id);

export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children.map((child) => (child instanceof Node ? child : String(child))));
  return made;
}

export const shown = (value) =>
  value === null || value === undefined ? "–" : typeof value === "number" ? +value.toPrecision(5) : value;

export const size = (n) => (n >= 1e5 ? `${(n / 1e6).toFixed(2)} MB` : `${(n / 1e3).toFixed(1)} kB`);

/** A table whose first column names the row. */
export function table(caption, columns, rows) {
  const kind = (cell) => (typeof cell === "number" ? { class: "number" } : {});
  const head = columns.map((name, i) => element("th", { scope: "col", ...kind(rows[0]?.[i]) }, name));
  const body = rows.map(([name, ...cells]) => element("tr", {}, element("th", { scope: "row" }, name),
    ...cells.map((cell) => element("td", kind(cell), shown(cell)))));
  return element("table", {}, element("caption", {}, caption),
    element("thead", {}, element("tr", {}, ...head)), element("tbody", {}, ...body));
}

/** Below a figure, for whoever cannot see it: what is in it as a table, made when it is opened. */
export function asTable(figure, make) {
  let details = figure.querySelector("details");
  if (!details) {
    details = element("details", {}, element("summary", {}, "As a table"), element("div"));
    details.addEventListener("toggle", () => details.fill());
    figure.append(details);
  }
  details.fill = () => { if (details.open) details.lastChild.replaceChildren(make()); };
  details.fill();
}

/** Fill a select, keeping what a person chose in it. */
export function choices(select, values, otherwise) {
  if (select.options.length !== values.length || [...select.options].some((option, i) => option.value !== String(values[i]))) {
    select.replaceChildren(...values.map((value) => element("option", { value }, value)));
  }
  const chosen = select.dataset.chosen;
  select.value = values.map(String).includes(chosen) ? chosen : otherwise;
}
