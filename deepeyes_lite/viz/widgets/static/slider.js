function render({ model, el }) {
  const label = document.createElement("label");
  const name = document.createElement("span");
  const input = document.createElement("input");
  const output = document.createElement("output");
  label.className = "eyes-slider";
  input.type = "range";
  label.append(name, input, output);
  el.append(label);
  const show = () => {
    name.textContent = model.get("label");
    for (const key of ["min", "max", "step"]) input[key] = model.get(key);
    input.value = model.get("value");
    output.textContent = String(Math.round(model.get("value") * 1000) / 1000);
  };
  input.addEventListener("input", () => { output.textContent = input.value; });
  input.addEventListener("change", () => {
    model.set("value", Number(input.value));
    model.save_changes();
  });
  for (const key of ["label", "min", "max", "step", "value"]) model.on(`change:${key}`, show);
  show();
}
export default { render };
