"""controls.py: three controls without the tool, on the shipped weights."""

import json

from deepeyes_lite.__main__ import main
from deepeyes_lite.study.controls import CONTROLS


def test_a_suppressed_call_leaves_no_answer_and_a_prompt_without_the_tool_does(tmp_path, capsys):
    out = tmp_path / "controls.json"
    assert main(["controls", "--samples", "12", "--out", str(out)]) == 0
    report = json.loads(out.read_text())
    trained = {
        tool: figures["format"]["mean"] for tool, figures in report["models"]["trained"].items()
    }
    assert list(trained) == list(CONTROLS)
    assert trained["suppressed"] < 0.7 and min(trained["off"], trained["forced"]) > 0.8
    for by_control in report["models"].values():
        assert all(figures["call_rate"]["mean"] == 0 for figures in by_control.values())
    text = capsys.readouterr().out
    assert all(
        f"| {who}, {name} |" in text for who in report["models"] for name in CONTROLS.values()
    )
