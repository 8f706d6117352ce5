// The board: filters above the table that follows the element of that name, and a click on a head sorts. Without a
// script the table stands as it is.
(() => {
  const mark = document.getElementById("board");
  const follows = (of) => mark.compareDocumentPosition(of) & Node.DOCUMENT_POSITION_FOLLOWING;
  const table = mark && [...document.querySelectorAll("table")].find(follows);
  if (!table) return;
  const heads = [...table.tHead.rows[0].cells], names = heads.map((of) => of.textContent.trim());
  const rows = [...table.tBodies[0].rows];
  const text = (row, place) => row.cells[place].textContent.trim();
  const tasks = names.slice(names.indexOf("seeds") + 1, names.indexOf("average"));
  const BUDGET = "budget of students";
  const whole = ["average", "retention"];  // over all tasks of a study
  table.classList.add("board");
  const frame = document.createElement("div");  // which scrolls; the theme frames tables without a class alone
  frame.className = "board";
  frame.tabIndex = 0;  // so that keys scroll it
  table.before(frame);
  frame.append(table);
  for (const row of rows) {  // a long name may break at its underscores, so that a phone has room for the scores
    row.cells[0].replaceChildren(...text(row, 0).split("_").flatMap((part, at) => at ? ["_", document.createElement("wbr"), part] : [part]));
  }
  let sorted = null, down = true;

  const choose = (name, values) => {
    const label = document.createElement("label"), select = document.createElement("select");
    label.append(name + " ", select);
    for (const value of ["all", ...values]) select.add(new Option(value));
    select.onchange = show;
    mark.append(label, " ");
    return select;
  };
  const seen = (name) => [...new Set(rows.map((row) => text(row, names.indexOf(name))))];
  const task = choose("task", tasks), student = choose("student", seen("student")), budget = choose("budget", seen(BUDGET));
  const label = document.createElement("label"), method = document.createElement("input");
  method.type = "search";
  method.size = 12;
  method.oninput = show;
  label.append("method ", method);
  const count = document.createElement("span");
  count.setAttribute("role", "status");
  mark.append(label, " ", count);

  function order(place, how) {
    [sorted, down] = [place, how];
    const number = (row) => parseFloat(text(row, place).replace(",", ""));
    const numbers = rows.some((row) => !Number.isNaN(number(row))) && place >= names.indexOf("seeds") && names[place] !== "study";
    const sign = down ? -1 : 1;
    table.tBodies[0].append(...rows.sort((a, b) => {
      if (!numbers) return sign * text(a, place).localeCompare(text(b, place));
      const [x, y] = [number(a), number(b)];
      return Number.isNaN(x) || Number.isNaN(y) ? Number.isNaN(x) - Number.isNaN(y) : sign * (x - y);  // the empty last
    }));
    heads.forEach((head, of) => head.setAttribute("aria-sort", of !== place ? "none" : down ? "descending" : "ascending"));
  }

  function show() {
    const only = task.value === "all" ? -1 : names.indexOf(task.value);
    let shown = 0;
    for (const row of rows) {
      const right = (select, name) => select.value === "all" || text(row, names.indexOf(name)) === select.value;
      row.hidden = !(right(student, "student") && right(budget, BUDGET) && (only < 0 || text(row, only))
        && text(row, 0).includes(method.value.trim().toLowerCase()));
      shown += !row.hidden;
    }
    names.forEach((name, place) => {
      const hidden = only >= 0 && place !== only && (tasks.includes(name) || whole.includes(name));
      [heads[place], ...rows.map((row) => row.cells[place])].forEach((cell) => { cell.hidden = hidden; });
    });
    if (only >= 0 && sorted !== only) order(only, true);
    count.textContent = `${shown} of ${rows.length} rows`;
    fit();
  }

  function fit() {  // a class, by which the page says that the table scrolls
    mark.classList.toggle("wide", table.offsetWidth > frame.clientWidth);
  }

  heads.forEach((head, place) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    button.onclick = () => order(place, sorted === place ? !down : place >= names.indexOf("seeds"));
    head.append(button);
  });
  window.addEventListener("resize", fit);
  show();
})();
