"use strict";
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const headers = [...table.tHead.rows[0].cells];
  headers.forEach((header, column) => {
    header.querySelector("button").addEventListener("click", () => {
      const up = header.getAttribute("aria-sort") !== "ascending";
      headers.forEach((other) => other.removeAttribute("aria-sort"));
      header.setAttribute("aria-sort", up ? "ascending" : "descending");
      const key = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent;
      const isNumber = header.classList.contains("number");
      const compare = (one, other) => {
        const [a, b] = [key(one), key(other)];
        if (!isNumber) return a.localeCompare(b);
        // Cells without a number stay at the end, whichever way is sorted.
        if (a === "" || b === "") return (a === "" ? 1 : 0) * (up ? 1 : -1) - (b === "" ? 1 : 0) * (up ? 1 : -1);
        return Number(a) - Number(b);
      };
      const rows = [...body.rows].sort((one, other) => (up ? 1 : -1) * compare(one, other));
      body.append(...rows);
    });
  });
  const filter = document.querySelector(`input[data-table="${table.id}"]`);
  const count = document.querySelector(`output[for="${filter.id}"]`);
  filter.addEventListener("input", () => {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of body.rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
      shown += row.hidden ? 0 : 1;
    }
    count.textContent = `${shown} of ${body.rows.length} rows`;
  });
}
