// What the three explorables share. Texts of others are set as text; `show` takes HTML that Jinja escaped.
const CSS = CSS_TEXT;
const SVG = "http://www.w3.org/2000/svg";

/** An element: `make("b", { title: "…" }, "text", child)`; a function is a listener. */
function make(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}
function draw(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}
function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") node.addEventListener(name, value);
    else if (value !== null && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children);
  return node;
}

/** A labelled control. */
const labelled = (name, control, ...more) => make("label", {}, make("span", {}, name), control, ...more);
const choice = (options, listener) =>
  make("select", { change: listener }, ...options.map(([text, value]) => make("option", { value }, text)));
const range = (min, max, step, value, listener) => make("input", { type: "range", min, max, step, value, input: listener });

/** Right or wrong by mark and by colour. */
const mark = (correct) =>
  make("b", { class: correct ? "ok" : "no", role: "img", "aria-label": correct ? "right" : "wrong" }, correct ? "✓" : "✗");

/** HTML of our templates, with the long values that the data keep once. */
const whole = (html, pool) => html.replace(/="#(\d+)"/g, (_, place) => `="${pool[place]}"`);

async function unpack(text) {
  const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).json();
}

/** Bring the element with this id to life, in anywidget's form; what stood in it is for pages without scripts. */
async function mount(id, render) {
  let host = null;
  for (let frames = 600; frames && !host; frames--) {
    host = document.querySelector(`[id="${id}"]:not([data-alive])`);
    if (!host) await new Promise(requestAnimationFrame); // not in the page yet
  }
  if (!host) return;
  host.dataset.alive = "";
  host.dataset.lmSuppressShortcuts = "true"; // JupyterLab would take the arrow keys for its cells
  const [packed, pool] = [...host.querySelectorAll("script")].map((script) => script.textContent);
  const data = { ...(await unpack(packed)), pool: JSON.parse(pool) };
  const el = make("div", { class: "eyes" });
  render({ model: { get: (name) => (name === "data" ? data : undefined) }, el });
  host.attachShadow({ mode: "open" }).append(make("style", {}, CSS), el);
}
