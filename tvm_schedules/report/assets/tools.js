// Elements, numbers in words, and tables that can be sorted. Text from files only ever becomes text nodes.

const element = (tag, attributes = {}, ...children) => {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== null && value !== undefined && value !== false) made.setAttribute(name, value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return made;
};

const known = (value) => typeof value === "number" && Number.isFinite(value);
const show = {
  bytes: (value) => {
    if (!known(value)) return "n/a";
    if (Math.abs(value) < 1024) return `${Math.round(value)} B`;
    return Math.abs(value) < 1048576 ? `${(value / 1024).toFixed(1)} KiB` : `${(value / 1048576).toFixed(2)} MiB`;
  },
  count: (value) => (known(value) ? Math.round(value).toLocaleString("en-US") : ""),
  percent: (value, digits = 1) => (known(value) ? `${(100 * value).toFixed(digits)} %` : ""),
  number: (value, digits = 4) => (known(value) ? String(Number(value.toPrecision(digits))) : ""),
  milliseconds: (value) => (known(value) ? `${Number(value.toPrecision(3))} ms` : "n/a"),
  text: (value) => (value === null || value === undefined ? "" : String(value)),
};

// columns: {title, value(row) to sort by, text(row) to show, left, strong}; detail(row) gives what a row unfolds, or null.
const sortableTable = (caption, columns, rows, detail = null) => {
  const body = element("tbody");
  const state = { column: -1, descending: false };
  const heads = columns.map((column, index) => {
    const button = element("button", { type: "button", onclick: () => sort(index) }, column.title);
    return element("th", { scope: "col", class: column.left ? "left" : null }, button);
  });
  const line = (row) => {
    const cells = columns.map((column, index) => {
      const kind = index === 0 ? "th" : "td";
      return element(kind, { class: column.left ? "left" : null, scope: index ? null : "row" }, column.text(row));
    });
    const made = element("tr", {}, cells);
    if (!detail || !detail(row, true)) return [made];
    const more = element("tr", { class: "more", hidden: true });
    const name = cells[0].textContent;
    const button = element(
      "button",
      {
        type: "button", class: "unfold", "aria-expanded": "false", "aria-label": `details of ${name}`,
        onclick: () => {
          more.hidden = !more.hidden;
          button.setAttribute("aria-expanded", String(!more.hidden));
          if (!more.childNodes.length) more.append(element("td", { colspan: columns.length }, detail(row)));
        },
      },
      name,
    );
    cells[0].replaceChildren(button);
    return [made, more];
  };
  const lines = rows.map((row) => ({ row, nodes: line(row) }));
  const fill = () => body.replaceChildren(...lines.flatMap((entry) => entry.nodes));
  const sort = (index) => {
    state.descending = state.column === index ? !state.descending : !columns[index].left;
    state.column = index;
    const value = columns[index].value ?? columns[index].text;
    const order = (a, b) => {
      const [first, second] = [value(a.row), value(b.row)];
      if (known(first) && known(second)) return first - second;
      if (known(first) !== known(second)) return known(first) ? 1 : -1;
      return String(first ?? "").localeCompare(String(second ?? ""), "en", { numeric: true });
    };
    lines.sort((a, b) => (state.descending ? order(b, a) : order(a, b)));
    heads.forEach((head, place) => {
      if (place === index) head.setAttribute("aria-sort", state.descending ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    });
    fill();
  };
  fill();
  const table = element("table", {}, element("caption", {}, caption), element("thead", {}, element("tr", {}, heads)), body);
  return element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption }, table);
};
