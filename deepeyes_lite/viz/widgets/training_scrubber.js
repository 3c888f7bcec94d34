// Curves of a run with a cursor, and what its policy did on the same scenes; a step moves what changed.
const DASHES = ["", "6 3", "2 2", "8 2 2 2"];
const [WIDTH, HEIGHT, LEFT, FOOT] = [220, 120, 24, 16];

function render({ model, el }) {
  const data = model.get("data");
  let run = data.runs[0];
  let timer = null;
  let shot = null;
  const over = () => (together.checked ? data.runs : [run]);
  const last = () => Math.max(...over().map((each) => each.steps.at(-1)));
  const x = (step) => LEFT + (step / last()) * (WIDTH - LEFT - 4);
  const y = (value) => 4 + (1 - value) * (HEIGHT - FOOT - 8);

  const play = make("button", { click: () => (timer ? stop() : start()) }, "Play");
  const slider = range(0, 1, 1, 1, () => show());
  const told = make("output");
  const which = choice(data.runs.map((each, place) => [each.name, place]), () => open());
  const together = make("input", { type: "checkbox", change: () => open(Number(slider.value)) });
  const panels = make("div", { class: "panels" });
  const scenes = make("div", { class: "scenes" });
  const note = make("p", { "aria-live": "polite" });
  const step = labelled("step", slider, told);
  step.className = "grow";
  const several = data.runs.length > 1 ? [labelled("run", which), labelled("all runs over each other", together)] : [];
  el.append(make("div", { class: "bar" }, play, step, ...several), panels, note, scenes);

  function path(values, steps) {
    let open = false;
    return values.map((value, i) => {
      const piece = value === null ? "" : `${open ? "L" : "M"}${x(steps[i]).toFixed(1)},${y(value).toFixed(1)}`;
      open = value !== null;
      return piece;
    }).join("");
  }
  function line(column, dash, width, opacity, values, steps) {
    return draw("path", { d: path(values, steps), fill: "none", stroke: `var(--${column.color})`, "stroke-width": width,
      "stroke-dasharray": dash, opacity });
  }
  function panel({ title, unit, columns }) {
    const axes = [0, 0.5, 1].flatMap((value) => [
      draw("line", { x1: LEFT, x2: WIDTH - 4, y1: y(value), y2: y(value), stroke: "var(--line)" }),
      draw("text", { x: LEFT - 4, y: y(value) + 3, "font-size": 9, "text-anchor": "end" }, String(value)),
    ]);
    const ticks = [0, Math.round(last() / 2), last()].map((value) =>
      draw("text", { x: x(value), y: HEIGHT - 4, "font-size": 9, "text-anchor": "middle" }, String(value)));
    const curves = columns.flatMap((column, place) => [
      line(column, "", 1, 0.28, run.curves[column.key].raw, run.steps),
      ...over().map((each, number) => line(column, DASHES[(together.checked ? number : place) % 4], each === run ? 2.2 : 1.2,
        each === run ? 1 : 0.75, each.curves[column.key].smooth, each.steps)),
    ]);
    const cursor = draw("line", { class: "cursor", y1: 2, y2: HEIGHT - FOOT, stroke: "currentColor", "stroke-width": 1.5 });
    const legend = columns.map((column, place) => make("div", {},
      draw("svg", { viewBox: "0 0 28 8", "aria-hidden": "true" }, draw("line", { x1: 0, x2: 28, y1: 4, y2: 4, "stroke-width": 2.5,
        stroke: `var(--${column.color})`, "stroke-dasharray": together.checked ? "" : DASHES[place] })),
      column.label, make("output", { "data-key": column.key })));
    return make("figure", {}, make("div", {}, make("b", {}, title), ` (${unit})`),
      draw("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": `${title}, ${unit}, over the steps` }, ...axes, ...ticks, ...curves, cursor),
      make("figcaption", {}, ...legend));
  }
  function scene({ picture, question }) {
    const figure = make("figure");
    const text = make("div");
    const fold = make("details", { toggle: () => write(figure) }, make("summary", {}, "what it wrote"), text);
    const drawn = make("div");
    drawn.innerHTML = whole(picture, data.pool);
    return fill(figure, { title: question }, [drawn, make("figcaption"), fold]);
  }
  function write(figure) {
    const fold = figure.querySelector("details");
    const episode = shot && shot.episodes[[...scenes.children].indexOf(figure)];
    if (fold.open && episode) fold.querySelector("div").innerHTML = whole(episode.turns, data.pool);
  }
  function open(at = null) {
    run = data.runs[Number(which.value)];
    shot = null;
    slider.min = run.shots.length ? 0 : 1;
    slider.max = run.steps.at(-1);
    slider.value = at === null ? slider.max : at;
    panels.replaceChildren(...data.panels.map(panel));
    if (together.checked) panels.append(make("figure", {}, make("b", {}, "Runs"), make("figcaption", {}, ...data.runs.map((each, number) =>
      make("div", {}, draw("svg", { viewBox: "0 0 28 8" }, draw("line", { x1: 0, x2: 28, y1: 4, y2: 4,
        stroke: "currentColor", "stroke-width": 2.5, "stroke-dasharray": DASHES[number % 4] })), each.name)))));
    scenes.replaceChildren(...run.scenes.map(scene));
    show();
  }
  function show() {
    const at = Number(slider.value);
    told.textContent = `${at} of ${slider.max}`;
    for (const cursor of panels.querySelectorAll(".cursor")) {
      cursor.setAttribute("x1", x(at));
      cursor.setAttribute("x2", x(at));
    }
    const row = Math.max(0, run.steps.findLastIndex((value) => value <= at)); // step 0 has the figures of step 1
    for (const output of panels.querySelectorAll("[data-key]")) {
      const value = run.curves[output.dataset.key].raw[row];
      output.textContent = value === null ? "–" : value.toFixed(2);
    }
    const recorded = run.shots.findLast((each) => each.step <= at);
    if (recorded === shot && shot) return;
    shot = recorded;
    if (!shot) return void (note.textContent = "This run recorded no scenes (its folder has no snapshots/).");
    const correct = shot.episodes.filter((episode) => episode.correct).length;
    const called = shot.episodes.filter((episode) => episode.called).length;
    note.textContent = `The same scenes after step ${shot.step}: ${correct} right, ${called} with a zoom. Green, dashed: the target. Orange: the zooms.`;
    [...scenes.children].forEach((figure, place) => {
      const episode = shot.episodes[place];
      if (!episode) return;
      const group = figure.querySelector("svg g");
      if (group) group.innerHTML = whole(episode.boxes, data.pool);
      figure.querySelector("figcaption").replaceChildren(mark(episode.correct), ` ${episode.verdict}`);
      write(figure);
    });
  }
  function stop() {
    clearInterval(timer);
    timer = null;
    play.textContent = "Play";
  }
  function start() {
    if (Number(slider.value) >= Number(slider.max)) slider.value = slider.min;
    play.textContent = "Pause";
    timer = setInterval(() => {
      if (!el.isConnected) return stop();
      slider.value = Number(slider.value) + 1;
      show();
      if (Number(slider.value) >= Number(slider.max)) stop();
    }, 80);
  }
  open();
}
