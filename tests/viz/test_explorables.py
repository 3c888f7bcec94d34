"""Scrubber, reward lab and viewer: what they carry, and what a reader does with it in headless Chromium.

The pages are opened from the disk, without a kernel and without a network.
"""

import base64
import gzip
import json
import shutil
import time

import pytest

from deepeyes_lite import rewards
from deepeyes_lite.rewards import VARIANTS
from deepeyes_lite.tinyworld.dataset import tiny_world
from deepeyes_lite.trajectories import write_jsonl
from deepeyes_lite.viz.snapshots import scenes
from deepeyes_lite.viz.widgets import (
    RewardLab,
    TrainingScrubber,
    TrajectoryViewer,
    trajectory_viewer,
)
from episodes import HOSTILE, LONG, Reader, hostile, made, recorded_run

pytestmark = pytest.mark.filterwarnings("ignore:Glyph")


# --- what they carry ------------------------------------------------------------------------------


def carried(widget):
    """What a page unpacks."""
    packed, pool = widget.packed
    assert "<" not in pool and "<" not in packed
    return {**json.loads(gzip.decompress(base64.b64decode(packed))), "pool": json.loads(pool)}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return recorded_run(tmp_path_factory.mktemp("runs") / "run")


def test_a_scrubber_carries_curves_scenes_and_episodes(run, tmp_path):
    other = shutil.copytree(run, tmp_path / "other")
    shutil.rmtree(other / "snapshots")
    first, second = carried(TrainingScrubber(run, other))["runs"]
    assert first["name"] == "run" and first["steps"] == [*range(1, 13)]
    assert first["curves"]["accuracy"]["raw"][5] == 0.5
    assert first["curves"]["p_zoom"]["raw"] == [None] * 12  # one episode a step is noise
    assert [shot["step"] for shot in first["shots"]] == [0, 5, 10] and len(first["scenes"]) == 6
    assert [sum(e["correct"] for e in shot["episodes"]) for shot in first["shots"]] == [0, 3, 5]
    assert second["shots"] == second["scenes"] == []
    with pytest.raises(ValueError, match="at least one run"):
        TrainingScrubber()


def test_a_lab_carries_what_each_reward_function_gives():
    group = made(8, scenes=1)
    data = carried(RewardLab(group))
    rate = sum(t.called for t in group) / 8
    for t, carried_episode in zip(group, data["groups"][0]["episodes"]):
        args = (t.correct, t.well_formed, len(t.boxes_px), t.best_iou or 0.0, rate)
        for weights in VARIANTS.values():
            paid = sum(weight * carried_episode["parts"][name] for name, weight in weights.items())
            assert paid == pytest.approx(rewards.reward(weights, *args))
    assert data["chances"]["p_direct"]["n"] == sum(not t.called for t in group)
    assert [len(g) for g in RewardLab(made(12) + made(1)).groups.values()] == [3, 2, 2, 2, 2, 2]
    with pytest.raises(ValueError, match="an advantage needs a group"):
        RewardLab(made(6))


def test_a_viewer_gives_a_file_its_images_back(tmp_path):
    write_jsonl(made(), tmp_path / "episodes.jsonl")
    rows = tiny_world("test", 6)
    for images in (rows, {row["id"]: row["image"] for row in rows}):
        data = carried(TrajectoryViewer(tmp_path / "episodes.jsonl", images))
        assert "<image " in data["keys"][2]["of"][0]["html"]
        assert sum(text.startswith("data:image/") for text in data["pool"]) <= 6 * 2 + 12
    without = TrajectoryViewer(str(tmp_path / "episodes.jsonl"))
    assert "No picture is here" in carried(without)["keys"][0]["of"][0]["html"]
    assert "12 episodes, without images" in without.still
    with pytest.raises(ValueError, match="no episodes"):
        TrajectoryViewer([])


def test_a_viewer_carries_pictures_for_as_much_as_a_page_bears(monkeypatch):
    monkeypatch.setattr(trajectory_viewer, "PICTURES", 30_000)
    rows = [each["of"][0]["html"] for each in carried(TrajectoryViewer(made()))["keys"]]
    shown = ["<image " in html for html in rows]
    assert shown[0] and not shown[-1] and shown == sorted(shown, reverse=True)


def test_what_others_wrote_is_text(run):
    viewer = TrajectoryViewer({HOSTILE: hostile(), "plain": made(2)})
    data = carried(viewer)
    for each in data["keys"]:
        for row in each["of"]:
            assert (
                row is None
                or len(Reader(row["html"].replace('="#', '="data:image/png;base64,')).text) < 30_000
            )
    lab = RewardLab(hostile() + hostile())
    for widget in (viewer, lab):
        Reader(widget.still)
        page = widget._repr_html_()
        assert page.count("<script") == page.count("</script>") == 3 and HOSTILE not in page


# --- what a reader does ---------------------------------------------------------------------------

ROOT = "document.querySelector('[data-alive]').shadowRoot"


class Page:
    """A saved widget in the browser; fails on anything in the console."""

    def __init__(self, browser, path, dark=False, width=1280):
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        size = {"width": width, "height": 720, "deviceScaleFactor": 1, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        browser.get(path.as_uri())
        self.browser = browser
        for _ in range(600):
            if self("return !!document.querySelector('[data-alive]')?.shadowRoot"):
                break
            time.sleep(0.1)

    def __call__(self, script, *args):
        value = self.browser.execute_script(script, *args)
        assert [e for e in self.browser.get_log("browser") if e["level"] == "SEVERE"] == []
        return value

    @property
    def text(self):
        return self(f"return {ROOT}.querySelector('.eyes').innerText")

    def set(self, label, value):
        """Set a labelled control as a reader would; a list by what one reads in it."""
        self(
            f"""const label = [...{ROOT}.querySelectorAll("label")].find(
                l => l.innerText.startsWith(arguments[0]));
            const control = label.querySelector("select, input");
            if (control.type === "checkbox") return control.click();
            const option = [...(control.options || [])].find(o => o.text === arguments[1]);
            control.value = option ? option.value : arguments[1];
            for (const type of ["input", "change"]) control.dispatchEvent(new Event(type));""",
            label,
            value,
        )

    def click(self, name):
        self(
            f'[...{ROOT}.querySelectorAll("button")].find(b => b.innerText === arguments[0]).click()',
            name,
        )

    def count(self, selector):
        return self(f"return {ROOT}.querySelectorAll(arguments[0]).length", selector)

    @property
    def fits(self):
        return self("const d = document.documentElement; return d.scrollWidth <= d.clientWidth")


def test_a_scrubber_moves_plays_and_lays_runs_over_each_other(browser, run, tmp_path):
    other = shutil.copytree(run, tmp_path / "other")
    shutil.rmtree(other / "snapshots")
    path = TrainingScrubber(run, other).save(tmp_path / "scrubber.html")
    page = Page(browser, path)
    assert "after step 10: 5 right" in page.text and "12 of 12" in page.text
    page.set("step", 7)
    assert "after step 5: 3 right" in page.text and page.count(".scenes .ok") == 3
    assert page.count(".scenes svg image") == 6 and page.count(".panels path") == 2 * 7
    page(f"{ROOT}.querySelector('summary').click()")
    time.sleep(0.2)
    assert "Step 5." in page.text
    page.set("all runs", True)
    assert page.count(".panels path") == 3 * 7 and "7 of 12" in page.text
    page.click("Play")
    time.sleep(2)
    assert "12 of 12" in page.text
    page.set("run", "other")
    assert "recorded no scenes" in page.text
    assert Page(browser, path, dark=True, width=390).fits


def test_a_lab_says_what_training_would(browser, tmp_path):
    group = made(8, scenes=1)
    path = RewardLab(group).save(tmp_path / "lab.html")
    page = Page(browser, path)
    rate = sum(t.called for t in group) / 8
    for name, weights in VARIANTS.items():
        page.set("reward variant", name)
        paid = [
            rewards.reward(
                weights, t.correct, t.well_formed, len(t.boxes_px), t.best_iou or 0.0, rate
            )
            for t in group
        ]
        shown = page(
            f"return [...{ROOT}.querySelectorAll('td:last-child')].map(cell => cell.innerText)"
        )
        assert [float(s.replace("−", "-")) for s in shown] == pytest.approx(
            rewards.advantages(paid), abs=0.006
        )
    page.set("p_zoom", 0.4)
    page.set("p_direct", 0.5)
    for variant, bonus, fate in (
        ("conditional", 1.2, "grows"),
        ("none", 0.0, "dies"),
        ("unconditional", 1.0, "grows"),  # 0.4 for every zoom, of which 0.4 are right
    ):
        page.set("reward variant", variant)
        least = rewards.least_bonus(0.4, 0.5, 0.8)
        assert f"b* is {least:.2f}; the bonus is {bonus:.2f}" in page.text
        assert f"zooming {fate}" in page.text
    page.set("p_zoom", 0)
    page.set("p_direct", 0.4)
    assert "zooming grows" in page.text  # every zoom is paid, and more than an answer at once
    page.set("reward variant", "conditional")
    assert "zooming dies" in page.text and "inf" not in page.text.lower().replace("inference", "")
    page.set("calls beyond", 0.25)
    assert page(f"return {ROOT}.querySelector('select').value") == "my own weights"
    figure = "const f = {0}.querySelector('.two').getBoundingClientRect(); return [f.left, f.top]"
    left, top = page(figure.format(ROOT))
    assert left > 300 and top < 300  # beside the dials
    narrow = Page(browser, path, width=800)
    left, top = narrow(figure.format(ROOT))
    assert left < 100 and top > 300 and narrow.fits  # below them
    assert Page(browser, path, dark=True, width=390).fits


def test_a_viewer_filters_sorts_steps_and_compares(browser, tmp_path):
    pair = {"base": made(24), "trained": made(24, right=lambda i: i < 4)}
    path = TrajectoryViewer(pair).save(tmp_path / "viewer.html")
    page = Page(browser, path)
    assert "24 of 24 episodes; right: 12 (50 %)" in page.text and page.count("li") == 24
    assert page.count(".policies > section") == 2 and page.count(".pictures img") == 2
    page.set("answer", "only trained right")
    assert page.count("li") == 2 and "2 of 24 episodes" in page.text and "right: " not in page.text
    page.set("answer", "right")
    assert page.count("li") == 12
    page.set("zoom", "with a zoom")
    assert page.count("li") == sum(t.correct and t.called for t in pair["base"])
    page.set("contains", "no model writes this")
    assert "No episode passes the filters" in page.text
    page.click("Clear filters")
    assert page.count("li") == 24
    overlaps = sorted(t.best_iou for t in pair["base"] if t.called)
    page.set("IoU from", overlaps[3])
    assert page.count("li") == sum(value >= overlaps[3] for value in overlaps)
    page.set("IoU from", 0)
    page.set("sort", "most zooms first")
    page(f"{ROOT}.querySelector('li').click()")
    assert "turns 1 to 3 of 3" in page.text and "2 zooms" in page(
        f"return {ROOT}.querySelector('li').innerText"
    )
    page.click("Previous turn")
    assert "Turn 3 of 3" not in page.text and "turns 1 to 2 of 3" in page.text
    page.set("reward variant", "iou")
    assert "bonus, IoU of the box" in page.text
    keys = f"{ROOT}.querySelector('ul').dispatchEvent(new KeyboardEvent('keydown', {{key: arguments[0]}}))"
    page(keys, "End")
    assert page(f"return {ROOT}.querySelector('[aria-selected=true]').id") == "option-23"
    list_, episode = page(
        f"return ['.list', '.episode'].map(s => {ROOT}.querySelector(s).getBoundingClientRect().left)"
    )
    assert episode > list_ + 200  # beside each other
    assert Page(browser, path, dark=True, width=390).fits


def test_hostile_text_is_shown_and_nothing_of_it_runs(browser, run, tmp_path):
    episodes = made(6, text=HOSTILE)
    for t, name in zip(episodes, scenes({"data": "", "legible_share": 0.5})["id"]):
        t.sample |= {"id": name, "question": HOSTILE, "answer": HOSTILE}
        t.answer = HOSTILE if name.endswith("0") else LONG
    folder = shutil.copytree(run, tmp_path / "hostile")
    write_jsonl(episodes, folder / "snapshots" / "0010.jsonl")
    for widget in (
        TrajectoryViewer({HOSTILE: hostile(), "plain": made(2)}),
        RewardLab(hostile() + hostile()),
        TrainingScrubber(folder),
    ):
        page = Page(browser, widget.save(tmp_path / "page.html"))
        assert "<img src=x" in page.text and page.count("img[src=x], script") == 0
        assert page("return document.title") == widget.title
        for number in range(page.count("li")):
            page(f"{ROOT}.querySelectorAll('li')[{number}].click()")


def test_an_exported_notebook_is_alive_without_a_network(browser, tmp_path):
    nbformat, exporter = (
        pytest.importorskip("nbformat"),
        pytest.importorskip("nbconvert").HTMLExporter,
    )
    html = str(RewardLab(made(8, scenes=1))._repr_html_())
    output = nbformat.v4.new_output("display_data", {"text/html": html, "text/plain": "RewardLab"})
    cell = nbformat.v4.new_code_cell("lab", outputs=[output])
    text, _ = exporter().from_notebook_node(nbformat.v4.new_notebook(cells=[cell]))
    (tmp_path / "export.html").write_text(text, encoding="utf-8")
    browser.execute_cdp_cmd("Network.enable", {})
    # nbconvert's own page asks for MathJax and require.js; ours must not.
    browser.execute_cdp_cmd("Network.setBlockedURLs", {"urls": ["http://*", "https://*"]})
    try:
        browser.get((tmp_path / "export.html").as_uri())
        alive = "return !!document.querySelector('[data-alive]')?.shadowRoot?.querySelector('svg circle')"
        for _ in range(100):
            if browser.execute_script(alive):
                break
            time.sleep(0.1)
        assert browser.execute_script(alive)
        ours = [
            e
            for e in browser.get_log("browser")
            if e["source"] != "network" and "require" not in e["message"]
        ]
        assert [e for e in ours if e["level"] == "SEVERE"] == []
    finally:
        browser.execute_cdp_cmd("Network.setBlockedURLs", {"urls": []})
