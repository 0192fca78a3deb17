"use strict";
// Shows what is already on the page: every number and place was computed before. Text is only ever set as text.
(() => {
  const root = document.documentElement;
  root.classList.add("scripted");
  const data = JSON.parse(document.getElementById("data").textContent);
  const find = (selector, from = document) => from.querySelector(selector);
  const all = (selector, from = document) => [...from.querySelectorAll(selector)];

  function make(tag, text = "", kind = "", ...children) {
    const made = document.createElement(tag);
    if (text !== "") made.append(tag === "bdi" ? text : Object.assign(document.createElement("bdi"), { textContent: text }));
    if (kind) made.className = kind;
    made.append(...children);
    return made;
  }

  // -- theme
  const theme = find(".theme");
  let dark = matchMedia("(prefers-color-scheme: dark)").matches;
  theme.setAttribute("aria-pressed", dark);
  theme.addEventListener("click", () => {
    dark = !dark;
    root.dataset.theme = dark ? "dark" : "light";
    theme.setAttribute("aria-pressed", dark);
  });

  // -- what is behind a number
  const dialog = find("#behind"), body = find("#behind > div"), title = find("#behind-title");
  const { cells, runs, shared } = data.behind;
  let opener = null;

  const facts = (pairs) => {
    const table = make("table", "", "", make("tbody"));
    for (const [name, text, kind] of pairs)
      if (text) table.tBodies[0].append(make("tr", "", "", Object.assign(make("th", name), { scope: "row" }), make("td", text, kind || "")));
    return table;
  };
  const unique = (members, key) => [...new Set(members.map((run) => run[key]))];

  function show(cell) {
    const members = cell.runs.map((place) => runs[place]);
    title.replaceChildren(make("bdi", cell.row));
    body.replaceChildren(make("p", cell.where, "mut"));
    const big = make("p", cell.mean, "big");
    big.append(" ", make("small", cell.more));
    body.append(big);
    if (cell.mark) body.append(make("p", cell.mark));
    body.append(make("h3", "Seeds"), seeds(members, cell.metric));
    for (const run of members) if (run.reason) body.append(make("p", `seed ${run.seed}: ${run.reason}`, "failed"));
    const commands = unique(members, "command").map((place) => shared.command[place]);
    body.append(make("h3", "Reproduce"), make("pre", members.map((run) => `python -m transfer reproduce ${run.id}`).join("\n")));
    body.append(make("details", "", "", make("summary", "as typed then"), ...commands.map((command) => make("pre", command))));
    for (const place of unique(members, "differences")) body.append(...differences(...shared.differences[place]));
    body.append(make("h3", "Weights"));
    for (const place of unique(members, "weights")) {
      const of = shared.weights[place];
      body.append(facts([["file", of.file], ["sha256", of.sha256, "mono"], ["network", of.network], ["arrived", of.arrived]]));
    }
    body.append(make("h3", "Data"));
    for (const place of unique(members, "data")) body.append(facts(Object.entries(shared.data[place])));
    body.append(make("h3", "Made by"));
    for (const place of unique(members, "code")) {
      const of = shared.code[place];
      body.append(facts([["task", of.task], ["commit", of.commit, "mono"], ["device", of.device], ["conditions", of.conditions]]));
    }
    for (const place of unique(members, "versions"))
      body.append(facts([["versions", Object.entries(shared.versions[place]).map((pair) => pair.join(" ")).join(", ")]]));
    body.append(facts([
      ["runs", members.map((run) => run.id).join(" "), "mono"],
      ["ended", members.map((run) => run.ended).filter(Boolean).join("; ")],
      ["took", members.map((run) => `${run.seconds} s`).join(", ")],
    ]));
    const notes = [...new Set(members.flatMap((run) => run.notes))];
    if (notes.length) body.append(make("h3", "Notes"), ...notes.map((note) => make("p", note)));
  }

  function seeds(members, first) {
    const names = [...new Set(members.flatMap((run) => Object.keys(run.metrics)))];
    names.sort((a, b) => (b === first) - (a === first));
    const head = make("tr", "", "", make("th", "seed"), ...members.map((run) => Object.assign(make("th", String(run.seed)), { scope: "col" })));
    const rows = names.map((name) => make("tr", "", "", Object.assign(make("th", name), { scope: "row" }),
      ...members.map((run) => make("td", name in run.metrics ? run.metrics[name].toFixed(2) : "–"))));
    return make("div", "", "scroll", make("table", "", "", make("thead", "", "", head), make("tbody", "", "", ...rows)));
  }

  function differences(protocol, groups) {
    const count = groups.reduce((sum, [, rows]) => sum + rows.length, 0);
    const found = [make("h3", `Against the protocol ${protocol}`)];
    if (!count) return [...found, make("p", "no difference")];
    for (const [name, rows] of groups) {
      const shown = make("details", "", "", make("summary", `${name}: ${rows.length} difference${rows.length > 1 ? "s" : ""}`));
      const table = make("table", "", "", make("thead", "", "", make("tr", "", "", make("th"), make("th", "protocol"), make("th", "here"))), make("tbody"));
      for (const [what, theirs, ours] of rows)
        table.tBodies[0].append(make("tr", "", "", Object.assign(make("th", what), { scope: "row" }), make("td", theirs), make("td", ours)));
      shown.append(table);
      found.push(shown);
    }
    return found;
  }

  for (const button of all(".cell")) {
    button.addEventListener("click", () => {
      opener = button;
      button.setAttribute("aria-expanded", "true");
      show(cells[button.dataset.c]);
      dialog.showModal();
      dialog.scrollTop = 0;
    });
  }
  find(".close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => event.target === dialog && event.offsetX < 0 && dialog.close());
  dialog.addEventListener("close", () => {
    opener.removeAttribute("aria-expanded");
    opener.focus();
  });

  // -- arrows move between the numbers of a table
  const steps = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
  document.addEventListener("keydown", (event) => {
    const button = event.target.closest?.(".cell"), step = steps[event.key];
    if (!button || !step) return;
    const grid = all("tr", button.closest("table")).map((row) => [...row.cells].map((cell) => find(".cell", cell)));
    let row = grid.findIndex((each) => each.includes(button)), column = grid[row].indexOf(button);
    do {
      row += step[0];
      column += step[1];
    } while (grid[row] && column >= 0 && column < grid[row].length && !grid[row][column]);
    const next = grid[row]?.[column];
    if (next) {
      next.focus();
      event.preventDefault();
    }
  });

  // -- sorting: the rows that are compared; baselines and published ones stay where they are
  for (const button of all(".sort")) {
    button.addEventListener("click", () => {
      const head = button.parentElement, ours = find("tbody.ours", head.closest("table"));
      if (!ours) return;
      const falling = head.getAttribute("aria-sort") !== "descending";
      for (const other of head.parentElement.cells) if (other.ariaSort) other.setAttribute("aria-sort", "none");
      head.setAttribute("aria-sort", falling ? "descending" : "ascending");
      const value = (row) => Number(row.cells[head.cellIndex].dataset.v ?? (falling ? -Infinity : Infinity));
      ours.append(...[...ours.rows].sort((a, b) => (falling ? value(b) - value(a) : value(a) - value(b))));
    });
  }

  // -- copying
  const said = find("#copied");
  async function copy(id, name) {
    const source = document.getElementById(id);
    try {
      await navigator.clipboard.writeText(source.textContent);
      said.textContent = `${name} copied`;
    } catch {
      // not allowed here: show the text, selected
      source.closest("details").open = true;
      source.scrollIntoView({ block: "center" });
      getSelection().selectAllChildren(source);
      said.textContent = "selected: copy it with the keyboard";
    }
    setTimeout(() => (said.textContent = ""), 2500);
  }
  for (const button of all("[data-copy]"))
    button.addEventListener("click", (event) => {
      event.preventDefault();
      copy(button.dataset.copy, button.dataset.copy.startsWith("csv") ? "CSV" : "LaTeX");
    });

  // -- any two
  const a = find("#a"), b = find("#b"), gaps = find("#gaps");
  const two = (value, plus) => (plus && value > 0 ? "+" : "") + value.toFixed(2).replace("-", "−");

  function compare() {
    const straight = Number(a.value) < Number(b.value);
    const key = straight ? `${a.value}-${b.value}` : `${b.value}-${a.value}`;
    const pair = data.pairs[key];
    const names = [a, b].map((select) => select.selectedOptions[0].textContent);
    all("#verdict > b > bdi").forEach((place, number) => (place.textContent = names[number]));
    const empty = gaps.tBodies[0].rows.length;
    let [better, undecided, worse] = pair ? pair.counts : [0, 0, 0];
    if (!straight) [better, worse] = [worse, better];
    const shown = { n0: better, n1: undecided, n2: worse, n: better + undecided + worse, m: pair ? pair.alone : 0 };
    for (const [kind, count] of Object.entries(shown)) find(`#verdict .${kind}`).textContent = count;
    find("#verdict .alone").hidden = !shown.m;
    const turned = (place) => (straight ? place : 100 - place);
    const ticks = pair ? pair.ticks : [];
    gaps.style.setProperty("--grid", ticks.map(([place]) => `linear-gradient(var(--line),var(--line)) ${place}% 0/1px 100% no-repeat`).concat("none").join(","));
    all("tfoot text", gaps).forEach((text) => text.remove());
    const strip = find("tfoot svg", gaps);
    for (const [place, text] of ticks) {
      const tick = document.createElementNS(strip.namespaceURI, "text");
      tick.setAttribute("x", `${place}%`);
      tick.setAttribute("y", "14");
      tick.textContent = text;
      strip.append(tick);
    }
    for (let number = 0; number < empty; number++) {
      const row = gaps.tBodies[0].rows[number], found = pair && pair.rows[number];
      if (!found) {
        row.className = "none";
        row.cells[2].textContent = "–";
        continue;
      }
      let [low, gap, high, told, , places] = found;
      if (!straight) [low, gap, high, places] = [-high, -gap, -low, [...places].reverse()];
      row.className = told ? (gap > 0 ? "up" : "down") : "";
      row.cells[2].textContent = `${two(gap, true)} [${two(low)}, ${two(high)}]`;
      const line = find("line", row), dot = find("circle", row);
      line.setAttribute("x1", `${turned(places[0])}%`);
      line.setAttribute("x2", `${turned(places[2])}%`);
      dot.setAttribute("cx", `${turned(places[1])}%`);
    }
  }
  if (a) {
    a.addEventListener("change", compare);
    b.addEventListener("change", compare);
    find("#swap").addEventListener("click", () => {
      [a.value, b.value] = [b.value, a.value];
      compare();
    });
  }
})();
