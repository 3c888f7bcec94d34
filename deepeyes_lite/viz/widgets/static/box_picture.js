function render({ model, el }) {
  const frame = document.createElement("div");
  const image = document.createElement("img");
  const shape = document.createElement("div");
  const clock = document.createElement("div");
  frame.className = "eyes-frame";
  shape.className = "eyes-box";
  clock.className = "eyes-clock";
  image.draggable = false;
  frame.append(image, shape);
  el.append(frame, clock);

  const draw = ([x1, y1, x2, y2]) => {
    shape.style.left = `${Math.min(x1, x2) / 10}%`;
    shape.style.top = `${Math.min(y1, y2) / 10}%`;
    shape.style.width = `${Math.abs(x2 - x1) / 10}%`;
    shape.style.height = `${Math.abs(y2 - y1) / 10}%`;
  };
  const place = (event) => {
    const { left, top, width, height } = frame.getBoundingClientRect();
    const part = (value, length) =>
      Math.round(1000 * Math.min(1, Math.max(0, value / length)));
    return [part(event.clientX - left, width), part(event.clientY - top, height)];
  };
  let start = null;
  const box = (event) => {
    const [x, y] = place(event);
    return [Math.min(start[0], x), Math.min(start[1], y), Math.max(start[0], x), Math.max(start[1], y)];
  };
  frame.addEventListener("pointerdown", (event) => {
    event.preventDefault();
    frame.setPointerCapture(event.pointerId);
    start = place(event);
  });
  frame.addEventListener("pointermove", (event) => start && draw(box(event)));
  frame.addEventListener("pointerup", (event) => {
    if (!start) return;
    const dragged = box(event);
    start = null;
    // A click is no box.
    if (dragged[2] - dragged[0] < 10 || dragged[3] - dragged[1] < 10) return draw(model.get("box"));
    model.set("box", dragged);
    model.save_changes();
  });
  frame.addEventListener("pointercancel", () => { start = null; draw(model.get("box")); });

  let timer = null;
  const run = () => {
    clearInterval(timer);
    if (!model.get("running")) return;
    const began = Date.now();
    const tick = () => { clock.textContent = `${Math.floor((Date.now() - began) / 1000)} s`; };
    tick();
    timer = setInterval(tick, 1000);
  };
  const show = () => {
    image.src = model.get("src");
    image.alt = model.get("alt");
  };
  model.on("change:src change:alt", show);
  model.on("change:box", () => draw(model.get("box")));
  model.on("change:running", run);
  show();
  draw(model.get("box"));
  run();
  return () => clearInterval(timer);
}
export default { render };
