"use strict";
const table = document.querySelector("#scans"), body = table.tBodies[0];
const text = document.querySelector("#text"), state = document.querySelector("#state"), shown = document.querySelector("#shown");
const key = (row, column) => row.cells[column].dataset.sort ?? "";
const compare = (a, b) =>
  a === "" || b === "" ? (a === "") - (b === "") : isNaN(a) || isNaN(b) ? a.localeCompare(b, undefined, {numeric: true}) : a - b;
const sort = (head) => {
  const turn = head.getAttribute("aria-sort") === "ascending" ? -1 : 1, column = head.cellIndex;
  const empty = (row) => key(row, column) === "";
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", turn > 0 ? "ascending" : "descending");
  const order = (a, b) => (empty(a) || empty(b) ? empty(a) - empty(b) : turn * compare(key(a, column), key(b, column)));
  body.append(...[...body.rows].sort(order));
};
const filter = () => {
  const wanted = text.value.trim().toLowerCase();
  let count = 0;
  for (const row of body.rows) {
    const fits = (!state.value || row.dataset.state === state.value) && row.textContent.toLowerCase().includes(wanted);
    row.hidden = !fits;
    count += fits;
  }
  shown.textContent = `${count} of ${body.rows.length}`;
};
for (const button of table.tHead.querySelectorAll("button")) {
  button.disabled = false;
  button.addEventListener("click", () => sort(button.closest("th")));
}
text.addEventListener("input", filter);
state.addEventListener("change", filter);
document.querySelector("#choose").hidden = false;
filter();
