function render({ el }) {
  let frames = 600;
  const own = (event) => { event.target.dataset.lmSuppressShortcuts = "true"; };
  const find = () => {
    const panel = el.closest(".eyes-panel");
    if (panel) panel.addEventListener("focusin", own);
    else if (frames--) requestAnimationFrame(find);  // not in the page yet
  };
  find();
}
export default { render };
