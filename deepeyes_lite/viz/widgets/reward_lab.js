// Weights become rewards, rewards become advantages, and two chances say whether zooming grows.
const OWN = "my own weights";
const [LOW, HIGH] = [-1, 2.5]; // the axes of the phase diagram; a point beyond stands at the edge

/** As GRPO makes them: less the mean, over the sample's standard deviation and 1e-4. */
function advantages(rewards) {
  const mean = rewards.reduce((a, b) => a + b, 0) / rewards.length;
  const squares = rewards.reduce((sum, value) => sum + (value - mean) ** 2, 0);
  return rewards.map((value) => (value - mean) / (Math.sqrt(squares / (rewards.length - 1)) + 1e-4));
}
const signed = (value) => (value < 0 ? "−" : "+") + Math.abs(value).toFixed(2);

function render({ model, el }) {
  const data = model.get("data");
  const dial = (label, max, step, value, listener) => {
    const input = range(0, max, step, value, listener);
    const output = make("output");
    return { input, output, node: labelled(label, input, output) };
  };
  const dials = Object.fromEntries(data.dials.map(({ key, label, max }) => [key, dial(label, max, 0.05, 0, () => {
    variant.value = OWN;
    show();
  })]));
  const chances = Object.fromEntries(Object.entries(data.chances).map(([name, { share }]) =>
    [name, dial(name, 1, 0.01, share === null ? 0.5 : share, () => show())]));
  const variant = choice([...Object.keys(data.variants), OWN].map((name) => [name, name]), () => set());
  const group = choice(data.groups.map(({ name, episodes }, place) => [`${name} (${episodes.length})`, place]), () => show());
  const bars = draw("svg", { viewBox: "0 0 320 240", role: "img" });
  const phases = draw("svg", { viewBox: "0 0 320 240", role: "img" });
  const verdict = make("p", { "aria-live": "polite" });
  const question = make("p");
  const table = make("table");
  const { p_zoom: zoomed, p_direct: direct } = data.chances;
  const measured = `Measured in these ${data.groups.length} groups: p_zoom ${said(zoomed)}, p_direct ${said(direct)}.`;
  el.append(
    make("div", { class: "lab" },
      make("div", { class: "dials" }, labelled("reward variant", variant), labelled("group", group),
        ...Object.values(dials).map(({ node }) => node), ...Object.values(chances).map(({ node }) => node)),
      make("div", {}, verdict, make("div", { class: "two" }, bars, phases), make("p", {}, measured))),
    question, make("div", { class: "wide" }, table));

  function said({ share, n }) {
    return share === null ? "unknown (0 episodes)" : `${share.toFixed(2)} (${n} episodes)`;
  }
  function set() {
    if (variant.value !== OWN)
      for (const [name, { input }] of Object.entries(dials)) input.value = data.variants[variant.value][name] || 0;
    show();
  }
  function show() {
    const values = (controls) => Object.fromEntries(Object.entries(controls).map(([name, { input, output }]) => {
      output.textContent = Number(input.value).toFixed(2);
      return [name, Number(input.value)];
    }));
    const weights = values(dials);
    const { episodes, question: asked } = data.groups[Number(group.value)];
    const parts = episodes.map((episode) => Object.entries(weights).map(([name, weight]) => [name, weight * episode.parts[name]])
      .filter(([, value]) => value));
    const rewards = parts.map((each) => each.reduce((sum, [, value]) => sum + value, 0));
    const gains = advantages(rewards);
    question.textContent = asked;
    const label = Object.fromEntries(data.dials.map((each) => [each.key, each.label]));
    table.replaceChildren(
      make("tr", {}, ...["", "how it ended", "parts", "reward", "advantage"].map((text) => make("th", {}, text))),
      ...episodes.map((episode, i) => make("tr", {},
        make("td", {}, `${i + 1} `, mark(episode.correct)), make("td", {}, episode.verdict),
        make("td", {}, parts[i].map(([name, value]) => `${label[name]} ${signed(value)}`).join(", ") || "nothing"),
        make("td", {}, rewards[i].toFixed(2)), make("td", {}, make("b", {}, signed(gains[i]))))));
    drawBars(episodes, gains);
    drawPhases(weights, values(chances));
  }

  function drawBars(episodes, gains) {
    const width = 290 / episodes.length;
    const y = (value) => 112 - (value / 2.8) * 90;
    const text = (x, at, size, words, more = {}) => draw("text", { x, y: at, "font-size": size, ...more }, words);
    const middle = { "text-anchor": "middle" };
    bars.setAttribute("aria-label", `The advantages of the group: ${gains.map(signed).join(", ")}.`);
    bars.replaceChildren(
      draw("pattern", { id: "hatch", width: 6, height: 6, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" },
        draw("rect", { width: 6, height: 6, fill: "var(--orange)" }), draw("line", { y2: 6, stroke: "white", "stroke-width": 2 })),
      text(28, 12, 12, "Advantages of the group", { "font-weight": 600 }),
      ...[-2, 0, 2].flatMap((value) => [
        draw("line", { x1: 26, x2: 320, y1: y(value), y2: y(value), stroke: value ? "var(--line)" : "var(--grey)" }),
        text(22, y(value) + 4, 10, String(value).replace("-", "−"), { "text-anchor": "end" }),
      ]),
      ...episodes.flatMap((episode, i) => {
        const x = 28 + i * width;
        const size = Math.min(12, width);
        return [
          draw("rect", { class: "advantage", x: x + width * 0.1, width: width * 0.8, y: Math.min(y(0), y(gains[i])),
            height: Math.abs(y(gains[i]) - y(0)), fill: episode.called ? "var(--blue)" : "url(#hatch)" }),
          text(x + width / 2, 214, size, episode.correct ? "✓" : "✗", { ...middle, class: episode.correct ? "ok" : "no" }),
        ];
      }),
      draw("rect", { x: 28, y: 224, width: 10, height: 10, fill: "var(--blue)" }), text(42, 233, 10, "with a zoom"),
      draw("rect", { x: 118, y: 224, width: 10, height: 10, fill: "url(#hatch)" }), text(132, 233, 10, "without"),
      text(196, 233, 10, "✓ right   ✗ wrong"));
  }

  function drawPhases(weights, { p_zoom, p_direct }) {
    const accuracy = weights.accuracy_reward;
    const zooming = (accuracy + weights.tool_bonus) * p_zoom + weights.call_bonus; // what a rollout with a zoom earns
    const answering = accuracy * p_direct;
    const fate = zooming > answering ? "grows" : "dies";
    // A bonus that is paid for every zoom is worth 1 / p_zoom as much for every right one.
    const least = p_zoom ? answering / p_zoom - accuracy : null;
    const bonus = p_zoom ? weights.tool_bonus + weights.call_bonus / p_zoom : null;
    const why = p_zoom
      ? `the least bonus b* is ${least.toFixed(2)}; the bonus is ${bonus.toFixed(2)}`
      : "a zoom is never followed by a right answer, so no bonus for right answers is enough";
    verdict.replaceChildren(make("b", { class: fate === "grows" ? "ok" : "no" }, `To first order zooming ${fate}: `),
      `with p_zoom ${p_zoom.toFixed(2)} and p_direct ${p_direct.toFixed(2)} ${why}.`);
    const x = (value) => 34 + ((value - LOW) / (HIGH - LOW)) * 276;
    const y = (value) => 205 - ((value - LOW) / (HIGH - LOW)) * 183;
    const clamp = (value) => Math.min(HIGH, Math.max(LOW, value));
    const text = (at, to, size, words, more = {}) => draw("text", { x: at, y: to, "font-size": size, ...more }, words);
    const [px, py] = p_zoom ? [x(clamp(least)), y(clamp(bonus))] : [null, null];
    const right = px > 220;
    phases.setAttribute("aria-label", `The phase diagram. ${verdict.textContent}`);
    phases.replaceChildren(
      text(34, 12, 12, "The collapse inequality", { "font-weight": 600 }),
      draw("path", { d: `M${x(LOW)},${y(LOW)}L${x(HIGH)},${y(HIGH)}L${x(LOW)},${y(HIGH)}Z`, fill: "var(--blue)", opacity: 0.13 }),
      draw("path", { d: `M${x(LOW)},${y(LOW)}L${x(HIGH)},${y(HIGH)}L${x(HIGH)},${y(LOW)}Z`, fill: "var(--orange)", opacity: 0.1 }),
      draw("line", { x1: x(LOW), y1: y(LOW), x2: x(HIGH), y2: y(HIGH), stroke: "var(--grey)", "stroke-width": 1.5 }),
      text(40, 36, 11, "predicted: grows"), text(306, 198, 11, "predicted: dies", { "text-anchor": "end" }),
      ...[-1, 0, 1, 2].flatMap((value) => [text(x(value), 219, 10, String(value).replace("-", "−"), { "text-anchor": "middle" }),
        text(29, y(value) + 3, 10, String(value).replace("-", "−"), { "text-anchor": "end" })]),
      text(172, 235, 11, "least bonus b*", { "text-anchor": "middle" }),
      text(0, 0, 11, "bonus b", { "text-anchor": "middle", transform: "translate(9 112) rotate(-90)" }),
      ...(p_zoom ? [
        draw("circle", { class: "you", cx: px, cy: py, r: 6, fill: "currentColor" }),
        text(px + (right ? -11 : 11), py + 4, 12, least > HIGH || least < LOW || bonus > HIGH ? "you, beyond the edge" : "you",
          { "text-anchor": right ? "end" : "start", "font-weight": 600 }),
      ] : []));
  }
  variant.value = "conditional";
  set();
}
