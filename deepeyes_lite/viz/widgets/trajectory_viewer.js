// Lists, filters and selects. How an episode looks is HTML that the package made; a page only shows it.
const ANY = "any";
const SORTS = {
  "as recorded": () => 0,
  "lowest IoU first": ({ iou }) => iou ?? 2,
  "highest IoU first": ({ iou }) => -(iou ?? -1),
  "most zooms first": ({ zooms }) => -zooms,
  "most turns first": ({ turns }) => -turns,
  "longest text first": ({ text }) => -text.length,
};

function render({ model, el }) {
  const data = model.get("data");
  const several = data.policies.length > 1;
  let rows = [];
  let chosen = null;
  let turn = null;

  const filter = () => choose();
  const of = choice(data.policies.map((name, place) => [name, place]), filter);
  const only = data.policies.length === 2 ? data.policies.map((name, place) => [`only ${name} right`, `only-${place}`]) : [];
  const answer = choice([[ANY, ANY], ["right", "right"], ["wrong", "wrong"], ...only], filter);
  const zoom = choice([[ANY, ANY], ["with a zoom", "with"], ["without", "without"]], filter);
  const kind = choice([[ANY, ANY], ...data.kinds.map((name, place) => [name, place])], filter);
  const bound = (value) => make("input", { type: "number", min: 0, max: 1, step: 0.05, value, input: filter });
  const [from, to] = [bound(0), bound(1)];
  const contains = make("input", { type: "search", placeholder: "what it wrote", size: 14, input: filter });
  const sort = choice(Object.keys(SORTS).map((name) => [name, name]), filter);
  const variant = choice(data.variants.map((name) => [name, name]), () => reward());
  const count = make("output");
  const clear = () => make("button", { click: () => {
    for (const control of [answer, zoom, kind]) control.value = ANY;
    [from.value, to.value, contains.value] = [0, 1, ""];
    choose();
  } }, "Clear filters");
  const list = make("ul", { class: "list", role: "listbox", tabindex: 0, "aria-label": "episodes", keydown: onKey });
  const back = make("button", { click: () => step(-1) }, "Previous turn");
  const forth = make("button", { click: () => step(1) }, "Next turn");
  const place = make("output");
  const columns = make("div", { class: "policies" });
  const episode = make("div", { class: "episode" }, make("div", { class: "bar" }, back, forth, place, labelled("reward variant", variant)), columns);
  const viewer = make("div", { class: "viewer" }, list, episode);
  el.append(
    make("div", { class: "bar" }, ...(several ? [labelled("filters on", of)] : []), labelled("answer", answer), labelled("zoom", zoom),
      labelled("kind", kind), labelled("IoU from", from, labelled("to", to)), labelled("contains", contains), labelled("sort", sort), count),
    viewer);

  const item = (key, number) => {
    const row = data.keys[key].of[Number(of.value)];
    const marks = data.keys[key].of.map((each) => (each ? mark(each.correct) : "–"));
    const overlap = row.iou === null ? "" : `, IoU ${row.iou.toFixed(2)}`;
    return make("li", { role: "option", id: `option-${number}`, "aria-selected": false, "data-number": number },
      make("div", { title: row.question }, ...marks, ` ${row.question}`),
      make("div", {}, `${row.answer ?? "no answer"}${row.correct || !row.truth ? "" : ` (it is ${row.truth})`} · ${row.kind} · ${row.zooms} zoom${row.zooms === 1 ? "" : "s"}${overlap} · ${data.keys[key].name}`));
  };
  list.addEventListener("click", (event) => {
    const option = event.target.closest("li[data-number]");
    if (option) select(Number(option.dataset.number));
  });

  function passes(each) {
    const row = each.of[Number(of.value)];
    if (!row) return false;
    const [low, high] = [Number(from.value), Number(to.value)];
    const right = each.of.flatMap((other, i) => (other && other.correct ? [`only-${i}`] : []));
    return (answer.value === ANY || (answer.value.startsWith("only-") ? right.length === 1 && right[0] === answer.value : row.correct === (answer.value === "right"))) &&
      (zoom.value === ANY || row.zooms > 0 === (zoom.value === "with")) &&
      (kind.value === ANY || row.kind === data.kinds[Number(kind.value)]) &&
      ((low === 0 && high === 1) || (row.iou !== null && low <= row.iou && row.iou <= high)) &&
      row.text.toLowerCase().includes(contains.value.toLowerCase());
  }
  function choose() {
    const mine = Number(of.value);
    const all = data.keys.filter((each) => each.of[mine]).length;
    const order = SORTS[sort.value];
    rows = data.keys.map((_, key) => key).filter((key) => passes(data.keys[key]));
    rows.sort((a, b) => order(data.keys[a].of[mine]) - order(data.keys[b].of[mine]));
    const correct = rows.filter((key) => data.keys[key].of[mine].correct).length;
    // A share of right ones among those that were filtered for being right says nothing.
    const share = answer.value === ANY && rows.length ? `; right: ${correct} (${Math.round((100 * correct) / rows.length)} %)` : "";
    count.textContent = `${rows.length.toLocaleString("en")} of ${all.toLocaleString("en")} episodes${share}`;
    list.replaceChildren(...rows.map(item));
    if (!rows.length) {
      chosen = null;
      list.removeAttribute("aria-activedescendant");
      columns.replaceChildren(make("div", { class: "empty" }, make("p", {}, "No episode passes the filters."), clear()));
      [back.disabled, forth.disabled, place.textContent] = [true, true, ""];
      return;
    }
    select(Math.max(0, rows.indexOf(chosen)));
  }
  function select(number) {
    const option = list.children[number];
    list.querySelector("[aria-selected=true]")?.setAttribute("aria-selected", false);
    option.setAttribute("aria-selected", true);
    list.setAttribute("aria-activedescendant", option.id);
    const [top, bottom] = [option.offsetTop, option.offsetTop + option.offsetHeight]; // the page itself must not scroll
    if (top < list.scrollTop) list.scrollTop = top;
    if (bottom > list.scrollTop + list.clientHeight) list.scrollTop = bottom - list.clientHeight;
    chosen = rows[number];
    const shown = data.keys[chosen].of;
    columns.replaceChildren(...shown.map((row) => {
      const column = make("section");
      if (row) column.innerHTML = whole(row.html, data.pool);
      return column;
    }).filter((column) => column.innerHTML));
    turn = Math.max(...shown.map((row) => (row ? row.turns : 0)));
    reward();
    step(0);
  }
  function step(by) {
    const turns = Math.max(1, ...data.keys[chosen].of.map((row) => (row ? row.turns : 0)));
    turn = Math.min(turns, Math.max(1, turn + by));
    for (const part of columns.querySelectorAll("[data-turn]")) part.toggleAttribute("hidden", Number(part.dataset.turn) > turn);
    for (const part of columns.querySelectorAll("svg [data-turn]")) part.style.display = Number(part.dataset.turn) > turn ? "none" : "";
    place.textContent = `turns 1 to ${turn} of ${turns}`;
    [back.disabled, forth.disabled] = [turn <= 1, turn >= turns];
  }
  function reward() {
    if (chosen === null) return;
    const shown = data.keys[chosen].of.filter(Boolean);
    [...columns.children].forEach((column, i) => {
      column.querySelector(".reward").innerHTML = data.tables[shown[i].rewards[data.variants.indexOf(variant.value)]];
    });
  }
  function onKey(event) {
    const moves = { ArrowDown: 1, ArrowUp: -1, PageDown: 10, PageUp: -10, Home: -Infinity, End: Infinity };
    if (!(event.key in moves) || !rows.length) return;
    event.preventDefault();
    select(Math.min(rows.length - 1, Math.max(0, rows.indexOf(chosen) + moves[event.key])));
  }
  answer.value = data.answer;
  choose();
  if (data.keys.length === 1) { // nothing to choose from
    for (const part of [list, el.querySelector(".bar")]) part.hidden = true;
    viewer.style.gridTemplateColumns = "minmax(0, 1fr)";
  }
}
