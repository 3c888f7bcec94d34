"""tool_use.py: who called what, counted and read back."""

from deepeyes_lite.study.extra_tools import ContrastTool, with_extra
from PIL import Image

from deepeyes_lite import prompts
from deepeyes_lite.study import tool_use
from deepeyes_lite.tools import ZOOM, ZoomTool

CONTRAST = "image_contrast_tool"
ZOOMS = prompts.tool_call({"bbox_2d": [0, 0, 9, 9]})
BOTH = with_extra(ZoomTool, ContrastTool)
PAGE = Image.new("RGB", (64, 64))


def test_chosen_reads_untrusted_text():
    assert tool_use.chosen([]) == "none"
    assert tool_use.chosen(["image_zoom_in_tool", '{"name": "image_zoom_in_tool"}']) == "none"
    assert tool_use.chosen([ZOOMS, ZOOMS]) == ZOOM
    both = [ZOOMS, prompts.tool_call({}, CONTRAST)]
    assert tool_use.chosen(both) == tool_use.chosen(both[::-1]) == f"{CONTRAST} + {ZOOM}"
    assert tool_use.chosen(['<tool_call>{"name": "' + "x" * 10**6 + '"']) == "none"
    assert tool_use.chosen(['<tool_call>{"name": "<b>"']) == "none"


def test_a_step_is_counted_by_kind_and_tool():
    texts = [ZOOMS, ZOOMS, "K", prompts.tool_call({}, CONTRAST)]
    kinds, right = ["small", "small", "plain", "small"], [True, False, True, False]
    rows = tool_use.count([BOTH(PAGE)] * 4, kinds, texts, right)
    assert rows == [
        {"kind": "plain", "tool": "none", "episodes": 1, "correct": 1},
        {"kind": "small", "tool": CONTRAST, "episodes": 1, "correct": 0},
        {"kind": "small", "tool": ZOOM, "episodes": 2, "correct": 1},
    ]


def test_with_one_tool_there_is_nothing_to_count(tmp_path):
    assert tool_use.count([ZoomTool(PAGE)], ["small"], [ZOOMS], [True]) == []
    tool_use.append(1, [], tmp_path / "tools.csv")
    assert not (tmp_path / "tools.csv").exists()


def test_a_step_done_twice_stands_there_once_and_a_cut_line_is_left_out(tmp_path):
    path = tmp_path / tool_use.FILE
    row = {"kind": "small", "tool": ZOOM, "episodes": 8, "correct": 3}
    for step in (1, 2, 2):
        tool_use.append(step, [row], path)
    with path.open("a", encoding="utf-8") as file:
        file.write("3,small,image_zo")
    assert tool_use.read(path) == [{"step": step, **row} for step in (1, 2)]
