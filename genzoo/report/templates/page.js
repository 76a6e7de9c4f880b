"use strict";
// Enhances a page that can be read without it: units, sorting, filtering, and the records as a download.
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const byId = (id) => document.getElementById(id);
  const say = (text) => { byId("said").textContent = text; };
  byId("tools").hidden = false;

  // Units: each text holds itself in the others.
  for (const text of all("[data-bits]")) text.dataset.nats = text.textContent;
  const choose = (unit) => {
    for (const text of all("[data-bits]")) text.textContent = text.dataset[unit];
  };
  for (const input of all("input[name=unit]")) {
    input.addEventListener("change", () => {
      choose(input.value);
      say(`numbers in ${input.parentElement.textContent.trim()}`);
    });
  }

  // Sorting: the seeds of a model stay below it; what has no number stays last.
  const blocks = (body) => {
    const made = [];
    for (const row of body.rows) {
      if (row.classList.contains("seed") && made.length) made.at(-1).push(row);
      else made.push([row]);
    }
    return made;
  };
  const compare = (column, sign) => (a, b) => {
    const [left, right] = [a, b].map(([row]) => row.cells[column]);
    const [x, y] = [left, right].map((cell) => cell.dataset.sort ?? cell.textContent.trim());
    if (x === "" || y === "") return (x === "") - (y === "");
    if ("sort" in left.dataset && "sort" in right.dataset) return sign * (x - y || 0);
    return sign * x.localeCompare(y, "en", { numeric: true });
  };
  for (const table of all("table")) {
    const body = table.tBodies[0];
    const given = blocks(body);
    const heads = all("thead th", table);
    heads.forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const next = { ascending: "descending", descending: undefined }[head.ariaSort ?? ""];
        const order = head.hasAttribute("aria-sort") ? next : "ascending";
        for (const other of heads) other.removeAttribute("aria-sort");
        if (order) head.setAttribute("aria-sort", order);
        const sorted = order ? [...given].sort(compare(column, order === "ascending" ? 1 : -1)) : given;
        body.append(...sorted.flat());
        say(order ? `sorted by ${button.textContent.trim()}, ${order}` : "in the order of the report");
      });
    });
  }

  // Filtering: every word must occur in the row, or in the name of its data set. Not ok: failed, skipped.
  const filter = byId("filter");
  const words = () => filter.value.toLowerCase().split(/\s+/).filter(Boolean);
  const has = (wanted, text) => wanted.every((word) => text.toLowerCase().includes(word));
  filter.addEventListener("input", () => {
    const wanted = words();
    let [shown, rows] = [0, 0];
    for (const section of all("section[data-name]")) {
      const name = section.dataset.name;
      let any = !wanted.length;
      for (const body of all("tbody", section)) {
        const league = body.closest("details") === null;
        for (const block of blocks(body)) {
          const hit = block.some((row) => has(wanted, `${name} ${row.classList.contains("failed") ? "" : "ok"} ${row.textContent}`));
          for (const row of block) row.hidden = !hit;
          if (league) [shown, rows] = [shown + (hit ? block.length : 0), rows + block.length];
          any ||= hit;
        }
      }
      for (const figure of all("[data-model]", section)) figure.hidden = !has(wanted, `${name} ok ${figure.dataset.model}`);
      section.hidden = !any;
      for (const link of all(`a[href="#${section.id}"]`)) link.closest("li").hidden = !any;
    }
    say(wanted.length ? `${shown} of ${rows} rows shown` : "");
  });

  // Downloads: the records as they are, or a row each.
  const held = JSON.parse(byId("records").textContent);
  const save = (name, type, text) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type }));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  };
  const field = (value) => {
    const text = typeof value === "object" && value !== null ? JSON.stringify(value) : String(value ?? "");
    const safe = typeof value === "string" && /^[=+\-@\t\r]/.test(text) ? `'${text}` : text;
    return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
  };
  const csv = () => {
    const rows = held.records.map((record) => ({ ...record, estimator: record.evaluation }));
    return [held.keys, ...rows.map((row) => held.keys.map((key) => row[key]))].map((row) => row.map(field).join(",")).join("\n");
  };
  byId("as-json").addEventListener("click", () => save("genzoo.json", "application/json", JSON.stringify(held.records, null, 1)));
  byId("as-csv").addEventListener("click", () => save("genzoo.csv", "text/csv", `${csv()}\n`));
})();
