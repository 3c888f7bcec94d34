"""What we ship for larger engines, as far as it can be seen without them; `make engines` runs the rest."""

import ast
import re
import sys
from importlib.resources import files
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
REALWORLD = files("deepeyes_lite.realworld")
DOCS = (ROOT / "docs" / "engines.md").read_text(encoding="utf-8")


def names_of(module: str) -> set[str]:
    """Classes and functions of a module that cannot be imported here."""
    path = ROOT / Path(*module.split(".")).with_suffix(".py")
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)}


def test_the_configuration_for_verl_names_what_is_there():
    config = yaml.safe_load((REALWORLD / "verl_grpo.yaml").read_text(encoding="utf-8"))
    for part in (config["data"]["custom_cls"], config["reward"]["custom_reward_function"]):
        assert part["name"] in names_of(part["path"].removeprefix("pkg://"))
    turns = config["actor_rollout_ref"]["rollout"]["multi_turn"]
    tools = yaml.safe_load((REALWORLD / Path(turns["tool_config_path"]).name).read_text())
    module, _, name = tools["tools"][0]["class_name"].rpartition(".")
    assert name in names_of(module)
    assert turns["enable"] and config["actor_rollout_ref"]["rollout"]["agent"]


def test_the_commands_of_the_page_name_files_that_are_there():
    verl, swift = re.findall(r"```\n(REALWORLD=.*?)```", DOCS, re.DOTALL)
    (config,) = re.findall(r"--config-name=(\w+)", verl)
    assert (REALWORLD / f"{config}.yaml").is_file() and "data.val_files=" in verl
    (plugin,) = re.findall(r"\$REALWORLD/(\w+\.py)", swift)
    source = (REALWORLD / plugin).read_text(encoding="utf-8")
    for flag, registry in (("multi_turn_scheduler", "multi_turns"), ("reward_funcs", "orms")):
        (name,) = re.findall(rf"--{flag} (\w+)", swift)
        assert f'{registry}["{name}"]' in source


@pytest.fixture
def run(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(ROOT / "tests" / "engines"))
    import run

    monkeypatch.setattr(run, "TABLE", tmp_path / "engines.md")
    (tmp_path / "engines.md").write_text(DOCS, encoding="utf-8")
    yield run
    for name in ("run", "report"):
        sys.modules.pop(name, None)


def test_an_engine_that_cannot_be_installed_is_skipped_with_a_word(run, monkeypatch, capsys):
    def no(engine):
        raise RuntimeError("ERROR: No matching distribution found for verl==0.9.1")

    monkeypatch.setattr(run, "install", no)
    rows, well = run.run("verl")
    assert (
        well and "SKIPPED, cannot be installed here: ERROR: No matching" in capsys.readouterr().out
    )
    run.write({"verl": rows})
    text = run.TABLE.read_text(encoding="utf-8")
    assert "| install | skipped: ERROR: No matching distribution found" in text
    assert text.count("<!-- verl -->") == text.count("<!-- verl end -->") == 1
    assert text.split("<!-- verl end -->")[1] == DOCS.split("<!-- verl end -->")[1]


def test_a_job_that_fails_fails_the_run(run, monkeypatch, tmp_path):
    monkeypatch.setattr(run, "install", lambda engine: None)
    monkeypatch.setattr(run, "WORK", tmp_path)
    monkeypatch.setattr(run, "python", lambda engine: sys.executable)  # here, without verl
    rows, well = run.run("verl")
    assert not well and "**failed**: ModuleNotFoundError" in rows[-2][1]
