"""The real widgets in headless Chromium, through JupyterLab and through Voilà.

Each test drives one widget as a reader would, by mouse and by keyboard. A console error fails it. With the
environment variable SCREENSHOTS a folder is filled with a picture of each.
"""

import io
import os
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.error import HTTPError

import nbformat
import psutil
import pytest
from PIL import Image

pytest.importorskip("selenium.webdriver")

from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 1200  # seconds for a kernel that imports torch on a busy machine
STEP = 120  # seconds for a widget to answer there

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3 * PATIENCE),
    pytest.mark.skipif(
        not os.environ.get("BROWSER"), reason="minutes of browser: run it with `make browser`"
    ),
]

CELLS = """
import warnings
from pathlib import Path
from episodes import hostile, made, recorded_run
from transformers.utils.logging import disable_progress_bar
from deepeyes_lite.tinyworld.dataset import tiny_world
from deepeyes_lite.models import load
from deepeyes_lite.viz.widgets import RewardLab, TrainingScrubber, TrajectoryViewer, ZoomByHand
disable_progress_bar()
processor = load({model!r})[1]
---
ZoomByHand(tiny_world("test", 3), processor)
---
TrajectoryViewer({{"base": made(24) + hostile(), "trained": made(24, right=lambda i: True)}})
---
RewardLab(made(8, scenes=1))
---
TrainingScrubber(recorded_run(Path("run")))
"""

READ = "return arguments[0].querySelector('.eyes').textContent"

NAMELESS = """
const found = [];
for (const root of arguments[0]) {
  for (const el of (root.shadowRoot || root).querySelectorAll("input, select, textarea, button")) {
    const labels = [...(el.labels || [])].map(label => label.textContent);
    const name = [...labels, el.getAttribute("aria-label"), el.textContent].join("").trim();
    if (!name || el.tabIndex < 0) found.push(el.outerHTML.slice(0, 200));
  }
}
return found;
"""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def serve(folder, *command):
    """A server on a port of its own, with nothing of the user's settings; stopped with its kernels.

    Gives its address and the process.
    """
    port = free_port()
    home = folder / "home"
    home.mkdir()
    settings = home / "settings" / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True)
    quiet = '{"fetchNews": "false", "checkForUpdates": false}'  # nothing of the network's
    (settings / "notification.jupyterlab-settings").write_text(quiet)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
        "HF_HUB_OFFLINE": "1",
        "JUPYTER_CONFIG_DIR": str(home),
        "JUPYTER_DATA_DIR": str(home / "data"),
        "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
        "IPYTHONDIR": str(home / "ipython"),
        "JUPYTERLAB_SETTINGS_DIR": str(home / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"),
    }
    with (folder / "log.txt").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", *command, f"--port={port}"],
            cwd=folder,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        yield f"http://127.0.0.1:{port}", process
    finally:
        stop(process)


def stop(process, seconds=60):
    """End a server politely, then what is left of it and of its kernels."""
    with suppress(psutil.NoSuchProcess):
        family = psutil.Process(process.pid).children(recursive=True)
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
        for member in [*family, process]:
            with suppress(psutil.NoSuchProcess):
                member.kill()
    process.wait()


@contextmanager
def leaving(browser):
    """Off the page before its server stops, whose silence would fill the console of the next test."""
    try:
        yield
    finally:
        browser.get("about:blank")
        browser.get_log("browser")


def reachable(url, process, log):
    for _ in range(PATIENCE):
        if process.poll() is not None:
            pytest.fail(f"the server has ended:\n{log.read_text()[-3000:]}")
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except HTTPError:  # an answer, too: Voilà serves its page and nothing else
            return
        except OSError:
            time.sleep(1)
    pytest.fail(f"no answer from {url}:\n{log.read_text()[-3000:]}")


@pytest.fixture(scope="module")
def lab(browser, tmp_path_factory):
    """The four widgets in a notebook that has been run in JupyterLab; gives their output areas."""
    folder = tmp_path_factory.mktemp("lab")
    cells = CELLS.format(model=str(ROOT / "data" / "tiny-eyes")).split("---")
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(cell.strip()) for cell in cells],
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}},
    )
    nbformat.write(notebook, folder / "widgets.ipynb")
    flags = (
        "--no-browser --allow-root --IdentityProvider.token= --LabApp.expose_app_in_browser=True"
    )
    flags += " --LabApp.extension_manager=readonly"
    command = ["jupyterlab", *flags.split(), f"--ServerApp.root_dir={folder}"]
    with serve(folder, *command) as (address, process), leaving(browser):
        reachable(f"{address}/api", process, folder / "log.txt")
        browser.get(f"{address}/doc/tree/widgets.ipynb")
        wait(browser, lambda: browser.execute_script("return !!window.jupyterapp"))
        wait(browser, lambda: len(browser.find_elements(By.CSS_SELECTOR, ".jp-CodeCell")) == 5)
        kernel = "return document.querySelector('.jp-Notebook-ExecutionIndicator')?.dataset.status"
        wait(browser, lambda: browser.execute_script(kernel) == "idle", PATIENCE)
        browser.execute_script("window.jupyterapp.commands.execute('notebook:run-all-cells')")
        wait(browser, lambda: len(outputs(browser)) == 4, PATIENCE)
        yield browser


@pytest.fixture(scope="module")
def voila(browser, tmp_path_factory):
    """The page that `make app` serves."""
    folder = tmp_path_factory.mktemp("voila")
    page = ROOT / "notebooks" / "app" / "look.ipynb"
    command = ["voila", str(page), "--no-browser", "--Voila.ip=127.0.0.1"]
    with serve(folder, *command) as (address, process), leaving(browser):
        reachable(f"{address}/static/favicon.ico", process, folder / "log.txt")
        browser.get(address)
        wait(
            browser,
            lambda: len(browser.find_elements(By.CSS_SELECTOR, ".eyes-frame")) == 1,
            PATIENCE,
        )
        wait(browser, lambda: browser.find_elements(By.CSS_SELECTOR, "[data-alive]"), PATIENCE)
        yield browser


def wait(browser, condition, seconds=STEP):
    def holds(_):
        try:
            return condition()
        except Exception:  # an element that is being redrawn
            return False

    return WebDriverWait(browser, seconds, 0.5).until(holds)


def outputs(browser):
    """What each of the four widgets is shown in."""
    return browser.find_elements(By.CSS_SELECTOR, ".eyes-panel, [data-alive]")


def shown(element):
    if not hasattr(element, "text"):
        element = element.find_element(By.TAG_NAME, "body")
    return element.get_attribute("textContent")


def named(area, name):
    """The control with this label or this text."""
    for kind in ("input", "select"):
        for label in area.find_elements(By.TAG_NAME, "label"):
            if shown(label).startswith(name) and (control := label.get_attribute("for")):
                return area.find_element(By.ID, control)
            if shown(label).startswith(name) and (inner := label.find_elements(By.TAG_NAME, kind)):
                return inner[0]
    (button,) = [b for b in area.find_elements(By.TAG_NAME, "button") if shown(b) == name]
    return button


def press(browser, area, name, *keys):
    """Focus a control, without the mouse, and press keys."""
    control = named(area, name)
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'});", control)
    browser.execute_script("arguments[0].focus();", control)
    assert browser.switch_to.active_element == control
    control.send_keys(*keys)
    return control


def keep(browser, area, name):
    """A picture of the widget's upper part in 256 colours, where somebody asked for it."""
    if not (folder := os.environ.get("SCREENSHOTS")):
        return
    size = browser.get_window_size()
    # What is scrolled away is not in the picture.
    browser.set_window_size(size["width"], 2 * size["height"])
    browser.execute_script("arguments[0].scrollIntoView({block: 'start'});", area)
    time.sleep(1)
    picture = Image.open(io.BytesIO(area.screenshot_as_png)).convert("RGB")
    picture = picture.crop((0, 0, picture.width, min(size["height"], picture.height)))
    Path(folder).mkdir(parents=True, exist_ok=True)
    picture = picture.quantize(256, method=Image.Quantize.FASTOCTREE)
    picture.save(Path(folder) / f"{name}.png", optimize=True)
    browser.set_window_size(size["width"], size["height"])


def console_errors(browser):
    """What the page complains of, but for other people's servers: Voilà asks a CDN for icons."""
    entries = [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    return [e for e in entries if e["source"] != "network" or "//127.0.0.1:" in e["message"]]


@pytest.fixture(autouse=True)
def no_console_errors(request):
    yield
    if {"lab", "voila"} & set(request.fixturenames):
        driver = request.getfixturevalue("browser")
        assert console_errors(driver) == []
        assert not driver.execute_script("return window.hacked"), "markup of a model was run"


# --- JupyterLab ---------------------------------------------------------------------------------


def test_every_control_has_a_name_and_is_reached_by_tab(lab):
    assert lab.execute_script(NAMELESS, outputs(lab)) == []


def zoom_by_hand(browser, area):
    """Drag, type, step and answer in a `ZoomByHand`."""
    press(browser, area, "Start", Keys.SPACE)
    wait(browser, lambda: named(area, "Zoom").is_enabled())
    frame = area.find_element(By.CSS_SELECTOR, ".eyes-frame")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'});", frame)
    size = frame.size
    drag = ActionChains(browser).move_to_element_with_offset(
        frame, -size["width"] // 4, -size["height"] // 4
    )
    drag.click_and_hold().move_by_offset(size["width"] // 4, size["height"] // 2)
    drag.release().perform()

    def box():
        return [
            int(named(area, n).get_property("value")) for n in ("left", "top", "right", "bottom")
        ]

    wait(browser, lambda: all(abs(a - b) <= 8 for a, b in zip(box(), (250, 250, 500, 750))))
    press(browser, area, "right", Keys.CONTROL + "a" + Keys.NULL + "400", Keys.ENTER)
    shape = area.find_element(By.CSS_SELECTOR, ".eyes-box")
    wait(browser, lambda: abs(float(shape.value_of_css_property("width")[:-2]) - 58) < 6)
    press(browser, area, "Zoom", Keys.ENTER)
    crop = "img[alt='Zoom 1, as the model sees it.']"
    wait(browser, lambda: area.find_elements(By.CSS_SELECTOR, crop))
    press(browser, area, "answer", "K", Keys.ENTER)
    wait(browser, lambda: "You so far" in shown(area))
    assert "1 zoom" in shown(area) and "reward" in shown(area)
    assert area.find_elements(By.CSS_SELECTOR, "svg rect[stroke-dasharray]")


def test_zoom_by_hand_drag_type_and_answer(lab):
    area = outputs(lab)[0]
    zoom_by_hand(lab, area)
    keep(lab, area, "zoom-by-hand")
    press(lab, area, "Next question", Keys.ENTER)
    wait(lab, lambda: "Question 2 of 3" in shown(area))
    wait(lab, lambda: shown(area.find_element(By.CSS_SELECTOR, ".eyes-clock")) == "2 s")


def test_the_others_live_in_jupyterlab_and_keep_their_keys(lab):
    viewer, rewards, scrubber = (area.shadow_root for area in outputs(lab)[1:])
    assert "28 of 28 episodes" in lab.execute_script(READ, viewer)
    assert "zooming grows" in lab.execute_script(READ, rewards)
    slider = scrubber.find_element(By.CSS_SELECTOR, "input[type=range]")
    lab.execute_script(
        "arguments[0].scrollIntoView({block: 'center'}); arguments[0].focus()", slider
    )
    slider.send_keys(Keys.HOME, *[Keys.ARROW_RIGHT] * 6)
    wait(lab, lambda: "after step 5: 3 right" in lab.execute_script(READ, scrubber))
    list_ = viewer.find_element(By.CSS_SELECTOR, "ul")
    lab.execute_script(
        "arguments[0].scrollIntoView({block: 'center'}); arguments[0].focus()", list_
    )
    list_.send_keys(Keys.ARROW_DOWN, Keys.ARROW_DOWN)
    chosen = "[aria-selected=true]"
    wait(
        lab, lambda: viewer.find_element(By.CSS_SELECTOR, chosen).get_attribute("id") == "option-2"
    )
    for area, name in zip(
        outputs(lab)[1:], ("trajectory-viewer", "reward-lab", "training-scrubber")
    ):
        keep(lab, area, name)


# --- Voilà --------------------------------------------------------------------------------------


def test_the_app_in_voila(voila):
    body = voila.find_element(By.TAG_NAME, "body")
    assert "Traceback" not in shown(body) and "import os" not in shown(body)  # no source
    assert voila.execute_script(NAMELESS, [body]) == []
    zoom_by_hand(voila, body)
    viewer = voila.find_element(By.CSS_SELECTOR, "[data-alive]").shadow_root
    assert "24 of 24 episodes" in voila.execute_script(READ, viewer)
    keep(voila, body, "app")


# --- the tests' own means -----------------------------------------------------------------------


def test_a_console_error_would_be_seen(browser):
    browser.get("data:text/html,<title>empty</title>")
    browser.execute_script("console.error('made for this test')")
    wait(browser, lambda: "made for this test" in str(console_errors(browser)))
