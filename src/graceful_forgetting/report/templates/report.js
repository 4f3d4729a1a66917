"use strict";
(() => {
  const MINUS = "\u2212";
  const format = (value, digits) => {
    if (value === null || value === undefined) return "–";
    if (value === 0) return "0";
    const small = Math.abs(value) < 1e-4 || Math.abs(value) >= 1e6;
    let text = small ? value.toExponential(digits - 1) : value.toPrecision(digits);
    if (!small && text.includes("e")) text = String(Number(text));
    return text.replaceAll("-", MINUS).replace("e+", "e");
  };

  // Curves: a cursor and a line of values, by pointer or arrow keys.
  for (const plot of document.querySelectorAll(".plot[data-readout]")) {
    const data = JSON.parse(plot.dataset.readout);
    const output = plot.nextElementSibling;
    const drawing = plot.querySelector("svg");
    const cursor = document.createElementNS("http://www.w3.org/2000/svg", "line");
    const height = drawing.viewBox.baseVal.height;
    let index = -1;
    const show = (next) => {
      index = Math.max(0, Math.min(data.x.length - 1, next));
      cursor.setAttribute("x1", data.position[index]);
      cursor.setAttribute("x2", data.position[index]);
      cursor.setAttribute("y1", 12);
      cursor.setAttribute("y2", height - 40);
      cursor.setAttribute("class", "cursor");
      if (!cursor.parentNode) drawing.append(cursor);
      const values = data.series.map((series) => `${series.name} ${format(series.y[index], 4)}`);
      output.textContent = `${data.label} ${data.x[index]}: ${values.join(", ")}`;
    };
    plot.addEventListener("pointermove", (event) => {
      const box = drawing.getBoundingClientRect();
      const x = ((event.clientX - box.left) / box.width) * drawing.viewBox.baseVal.width;
      let nearest = 0;
      data.position.forEach((position, at) => {
        if (Math.abs(position - x) < Math.abs(data.position[nearest] - x)) nearest = at;
      });
      show(nearest);
    });
    plot.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10, Home: -Infinity, End: Infinity }[event.key];
      if (step === undefined) return;
      event.preventDefault();
      show(index < 0 && Number.isFinite(step) ? 0 : index + step);
    });
  }

  // The table of samples: filtered and sorted row numbers, one page of rows in the document.
  const table = document.getElementById("sample-table");
  if (!table) return;
  const { labels, columns } = JSON.parse(document.getElementById("sample-data").textContent);
  const element = (name) => document.getElementById(`sample-${name}`);
  const heads = [...table.querySelectorAll("th")];
  const body = table.tBodies[0];
  const count = columns.prompt.length;
  const collator = new Intl.Collator(undefined, { numeric: true });
  const SHORT = 160;
  const filters = [...document.querySelectorAll("#samples [data-filter]")];
  let sorting = { column: table.dataset.sort, ascending: false };
  let rows = [];
  let page = 0;
  let haystack = null;

  const compare = (column, kind) => {
    const values = columns[column];
    if (kind === "text") return (a, b) => collator.compare(values[a], values[b]);
    if (kind === "label") return (a, b) => collator.compare(labels[column][values[a]], labels[column][values[b]]);
    return (a, b) => values[a] - values[b];
  };

  const refresh = () => {
    const wanted = element("search").value.trim().toLowerCase();
    const active = filters.filter((filter) => filter.value !== "");
    if (wanted && !haystack) {
      haystack = columns.prompt.map((prompt, row) => `${prompt}\n${columns.completion[row]}`.toLowerCase());
    }
    rows = [];
    for (let row = 0; row < count; row += 1) {
      if (active.some((filter) => columns[filter.dataset.filter][row] !== Number(filter.value))) continue;
      if (wanted && !haystack[row].includes(wanted)) continue;
      rows.push(row);
    }
    const { column, ascending } = sorting;
    const head = heads.find((cell) => cell.dataset.column === column);
    const order = compare(column, head.dataset.kind);
    const empty = (row) => columns[column][row] === null;
    // Samples without a value stay last in both directions.
    rows.sort((a, b) => empty(a) - empty(b) || (empty(a) ? 0 : ascending ? order(a, b) : order(b, a)) || a - b);
    for (const cell of heads) cell.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
    element("sort").value = column;
    element("direction").textContent = ascending ? "Ascending" : "Descending";
    page = 0;
    draw();
  };

  const fillText = (cell, text) => {
    if (text.length <= SHORT) {
      cell.append(text);
      return;
    }
    const details = document.createElement("details");
    const summary = document.createElement("summary");
    const excerpt = document.createElement("span");
    excerpt.className = "excerpt";
    excerpt.textContent = `${text.slice(0, SHORT)}…`;
    summary.append(excerpt);
    details.append(summary, text);
    cell.append(details);
  };

  const draw = () => {
    const size = Number(element("size").value);
    const first = page * size;
    const shown = rows.slice(first, first + size);
    const fragment = document.createDocumentFragment();
    for (const row of shown) {
      const line = document.createElement("tr");
      line.setAttribute("role", "row");
      for (const head of heads) {
        const { column, kind } = head.dataset;
        const cell = document.createElement("td");
        cell.setAttribute("role", "cell");
        cell.className = head.className;
        cell.dataset.label = head.textContent.trim();
        const value = columns[column][row];
        if (kind === "text") fillText(cell, value);
        else if (kind === "label") cell.textContent = labels[column][value];
        else cell.textContent = format(value, 4);
        // The first label of a flag is that of "no".
        if (head.classList.contains("flag") && value) cell.classList.add("set");
        line.append(cell);
      }
      fragment.append(line);
    }
    body.replaceChildren(fragment);
    const last = first + shown.length;
    element("status").textContent = rows.length
      ? `${first + 1} to ${last} of ${rows.length}`
      : "No sample matches";
    element("previous").disabled = page === 0;
    element("next").disabled = last >= rows.length;
  };

  const sortBy = (column, ascending) => {
    sorting = { column, ascending };
    refresh();
  };
  for (const head of heads) {
    const { column } = head.dataset;
    const risesFirst = head.dataset.first === "ascending";
    head.querySelector("button").addEventListener("click", () => {
      sortBy(column, sorting.column === column ? !sorting.ascending : risesFirst);
    });
    element("sort").add(new Option(head.textContent.trim(), column));
  }
  element("sort").addEventListener("change", (event) => sortBy(event.target.value, sorting.ascending));
  element("direction").addEventListener("click", () => sortBy(sorting.column, !sorting.ascending));
  let waiting;
  element("search").addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(refresh, 150);
  });
  for (const choice of [...filters, element("size")]) choice.addEventListener("change", refresh);
  element("previous").addEventListener("click", () => {
    page -= 1;
    draw();
  });
  element("next").addEventListener("click", () => {
    page += 1;
    draw();
  });
  for (const part of document.querySelectorAll("#samples [hidden]")) part.hidden = false;
  refresh();
})();
