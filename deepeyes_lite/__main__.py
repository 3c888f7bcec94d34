"""The commands of deepeyes-lite: ``deepeyes-lite --help`` lists them.

This file is the caller that hands the folders to the method, so it alone of the flat files imports them,
and each command imports what it needs when it runs.
"""

import argparse
import json
import os
import re
import shlex
import sys
import warnings
from collections import Counter
from contextlib import nullcontext
from dataclasses import fields
from pathlib import Path

from deepeyes_lite import __version__

# What options may be. Its home takes seconds to import, and a typo is answered at once; a test compares.
TOOLS = ("on", "off", "blank", "other", "suppressed", "forced")
SETS = ("deepeyes", "deepeyes-vstar", "deepeyes-chart", "deepeyes-reasoning")
SETS += ("vstar", "hrbench-4k", "hrbench-8k", "pope")


def main(argv: list[str] | None = None) -> int:
    """Run a command; 0 if it went well."""
    argv = (sys.argv[1:] if argv is None else argv) or ["--help"]
    args = parser(argv).parse_args(argv)
    _quiet()
    sys.path.append(os.getcwd())  # where --environment may find a class of one's own
    try:
        _look(args)
        print("loading …", file=sys.stderr, flush=True)  # torch takes seconds to import
        with _sole_writer(args):
            return COMMANDS[args.command][1](args) or 0
    except (ValueError, OSError, ArithmeticError, RuntimeError, ImportError, MemoryError) as error:
        if args.debug:
            raise
        named = isinstance(error, OSError) and error.filename and error.strerror
        text = f"{error.filename}: {error.strerror.lower()}" if named else error  # no "[Errno 2]"
        say(f"deepeyes-lite {args.command}: {text or type(error).__name__}", sys.stderr)
        return 1


def _look(args) -> None:
    """Whether what a command reads is there, and what it must not overwrite is not; nothing is loaded yet.

    Raises:
        FileNotFoundError, ValueError: if not.
    """
    given = vars(args)
    for name in ("run", "trained"):
        if (run := given.get(name)) and not (run / "config.json").exists():
            raise FileNotFoundError(
                f"no config.json in {run}; start a run with `train --out {run}`"
            )
    for name in ("photo", "folder", "data", "source", "against", "config"):
        path = given.get(name)
        if path and not Path(path).exists():
            raise FileNotFoundError(f"there is no file or folder {str(path)!r}")
    new = () if args.command == "rollout" and args.endpoint else args.new  # such a batch goes on
    for name in new:
        if given[name] and given[name].exists():
            raise ValueError(f"{given[name]} is there already; choose another name or delete it")


def _sole_writer(args):
    """The lock of what a command writes: its ``--out``, or the folder that it completes.

    A study is shared by several processes and locks its runs itself.
    """
    from deepeyes_lite.files import is_first_process, sole_writer

    if args.command in ("train", "demo"):
        out = config_of(args)[1]
    else:
        places = {"evaluate": "run", "merge": "to", "card": "model", "doctor": "record"}
        out = getattr(args, places.get(args.command, "out"), None)
    locked = out and args.command != "study" and is_first_process()
    return sole_writer(out) if locked else nullcontext()


def say(text: str, stream=None) -> None:
    """Print, without what steers a terminal: names, ids and messages are somebody else's text."""
    print("".join(c if c.isprintable() or c in "\n\t" else " " for c in text), file=stream)


def _quiet() -> None:
    """Keep the libraries' notes to developers off the screen of somebody who runs a command.

    And let a console that lacks a letter, such as those of Windows, show a question mark.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")


def parser(argv: list[str]) -> argparse.ArgumentParser:
    """The parser; options are made for the commands that ``argv`` names, since some need imports."""
    top = argparse.ArgumentParser(
        prog="deepeyes-lite",
        description="Thinking with images: train, roll out, evaluate.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=_overview(),
    )
    top.add_argument("--debug", action="store_true", help="show the traceback of an error")
    top.add_argument("--version", action="version", version=f"deepeyes-lite {__version__}")
    subparsers = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (add, _, text, example) in COMMANDS.items():
        sub = subparsers.add_parser(
            name,
            description=text,
            epilog=f"example: deepeyes-lite {example}",
            formatter_class=_Help,
        )
        sub.set_defaults(new=())
        if name in argv:
            add(sub)
    return top


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """The default of every option, where it says something."""

    def _get_help_string(self, action):
        if action.default in (None, False, 0, ""):
            return action.help or ""
        return super()._get_help_string(action) if action.help else "(default: %(default)s)"


def _overview() -> str:
    lines = ["commands (deepeyes-lite COMMAND --help says more):"]
    for group, names in GROUPS.items():
        lines += ["", f"  {group}", *(f"    {name:10} {COMMANDS[name][2]}" for name in names)]
        lines += [f"      example: deepeyes-lite {COMMANDS[names[0]][3]}"]
    return "\n".join(lines)


# --- train, evaluate, merge -------------------------------------------------------------------------


def _add_train(sub) -> None:
    from deepeyes_lite.config import PRESETS, RunConfig
    from deepeyes_lite.rewards import VARIANTS

    sub.add_argument("--out", type=Path, help="run folder (default runs/PRESET-REWARD-SEED)")
    sub.add_argument(
        "--preset", choices=PRESETS, default="demo", help="where the defaults are from"
    )
    sub.add_argument("--config", type=Path, help="YAML file with any of the options below")
    sub.add_argument(
        "--trl",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an option of TRL's GRPOConfig, passed on; may be given many times",
    )
    steps = "steps of SFT on traces made of target boxes, before GRPO (default 0)"
    sub.add_argument("--cold-start", type=int, default=0, metavar="STEPS", help=steps)
    helps = dict(re.findall(r"^ {8}(\w+): (.+?)$(?= {8}\w|)", RunConfig.__doc__, re.MULTILINE))
    for field in fields(RunConfig):
        if field.name == "trl":
            continue
        flag, text = "--" + field.name.replace("_", "-"), helps[field.name].rstrip(".")
        default = RunConfig.__dataclass_fields__[field.name].default
        kind = {"default": argparse.SUPPRESS, "help": f"{text} (demo: {default})"}
        if isinstance(default, bool):
            sub.add_argument(flag, action=argparse.BooleanOptionalAction, **kind)
        else:
            choices = tuple(VARIANTS) if field.name == "reward" else None
            sub.add_argument(
                flag, type=float if default is None else type(default), choices=choices, **kind
            )


def _add_demo(sub) -> None:
    _add_train(sub)
    sub.add_argument("--samples", type=int, default=300, help="held-out scenes")


def _add_evaluate(sub) -> None:
    sub.add_argument("run", type=Path, help="folder of a finished run")
    sub.add_argument("--samples", type=int, default=300, help="held-out scenes")


def _add_merge(sub) -> None:
    sub.add_argument("run", type=Path, help="folder of a finished run")
    sub.add_argument("--to", type=Path, required=True, help="folder to write")
    sub.set_defaults(new=("to",))


def config_of(args):
    """The configuration of a run, and its folder: preset, then YAML file, then options.

    Raises:
        ValueError: for a YAML file with something else in it.
    """
    from deepeyes_lite.config import RunConfig, preset

    names = [field.name for field in fields(RunConfig)]
    changes = _yaml(args.config, names) if args.config else {}
    trl = {**changes.pop("trl", {}), **trl_options(args.trl)}
    changes |= {name: vars(args)[name] for name in names if name in vars(args) and name != "trl"}
    config = preset(args.preset, **changes, **({"trl": trl} if trl else {}))
    out = args.out or Path("runs") / f"{args.preset}-{config.reward}-{config.seed}"
    return config, out


def _yaml(path: Path, names: list[str]) -> dict:
    import yaml

    try:
        options = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is no YAML: {error}") from None
    if not isinstance(options, dict) or set(options) - set(names):
        raise ValueError(f"{path} must hold options of a run ({', '.join(names)}), got {options}")
    return options


def trl_options(given: list[str]) -> dict:
    """Options for TRL from the command line, values read as JSON where they are JSON.

    Raises:
        ValueError: for one without a name or a value.

    >>> trl_options(["use_vllm=true", "vllm_mode=colocate", "max_grad_norm=0.5"])
    {'use_vllm': True, 'vllm_mode': 'colocate', 'max_grad_norm': 0.5}
    """
    options = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise ValueError(f"an option for TRL is given as NAME=VALUE, got {text!r}")
        try:
            options[name] = json.loads(value)
        except (ValueError, RecursionError):
            options[name] = value
    return options


def _train(args) -> Path:
    from dataclasses import replace

    from deepeyes_lite.models import device
    from deepeyes_lite.realworld.cold_start import cold_start
    from deepeyes_lite.tinyworld.dataset import training_questions
    from deepeyes_lite.training import train as run
    from deepeyes_lite.viz.snapshots import snapshots_of

    config, out = config_of(args)
    if device().type == "cpu" and config.model.startswith("Qwen/"):
        say("note: no GPU here; weights of this size are out of a CPU's reach")
    questions = training_questions(config)
    if args.cold_start:
        adapter = cold_start(
            config.model,
            questions,
            args.cold_start,
            out / "cold_start",
            config.lora_rank,
            config.quantise,
            config.max_pixels,
            seed=config.seed,
            gradient_checkpointing=config.gradient_checkpointing,
        )
        config = replace(config, adapter=str(adapter))
    run(config, out, questions, [snapshots_of(config, out)])
    _write_card(out)
    say(f"trained: {out}")
    return out


def _write_card(out: Path) -> None:
    """The run's own figures in the place of peft's empty template."""
    from deepeyes_lite.files import atomic_write, is_first_process
    from deepeyes_lite.realworld.publishing import card

    if is_first_process():
        with atomic_write(out / "adapter" / "README.md") as tmp:
            tmp.write_text(card(out, "peft"), encoding="utf-8")


def _report(out: Path, samples: int) -> None:
    from deepeyes_lite.evaluation import evaluate_run, table
    from deepeyes_lite.tinyworld.dataset import held_out
    from deepeyes_lite.training import read_config
    from deepeyes_lite.viz.report import write_report

    say(table(evaluate_run(out, held_out(samples, read_config(out).legible_share))))
    _write_card(out)
    say(f"report: {write_report(out)}")


def train(args) -> None:
    _train(args)


def demo(args) -> None:
    _report(_train(args), args.samples)


def evaluate(args) -> None:
    _report(args.run, args.samples)


def merge(args) -> None:
    from deepeyes_lite.realworld.publishing import merge as run

    say(f"merged: {run(args.run, args.to)}")


# --- let a model answer -------------------------------------------------------------------------------


def _add_model(sub) -> None:
    group = sub.add_argument_group("who answers; the base model tiny-eyes, if nothing is named")
    group.add_argument("--run", type=Path, dest="trained", help="folder of a finished run")
    group.add_argument("--model", help="a folder, a name of the hub, or a name at the endpoint")
    adapter = "a LoRA adapter on it: a folder, or tiny-eyes-zooms, which ships"
    group.add_argument("--adapter", help=adapter)
    group.add_argument("--max-pixels", type=int, default=0, help="greatest area of a view")
    group.add_argument("--environment", default="", help="dotted path of a class with more tools")
    group.add_argument("--endpoint", help="address of an OpenAI-compatible server")
    prompts = "tools, or deepeyes for its own weights"
    group.add_argument("--prompt", choices=("tools", "deepeyes"), default="tools", help=prompts)
    frame = "of the boxes, if not that of the prompt"
    group.add_argument("--frame", choices=("box_1000", "box_view"), help=frame)
    tokens = "of a reply (default 2048 at an endpoint, the family's on this machine)"
    group.add_argument("--max-tokens", type=int, help=tokens)
    group.add_argument("--timeout", type=float, default=120, help="seconds for one answer")
    group.add_argument("--concurrency", type=int, default=8, help="requests at a time")


def _add_judge(sub) -> None:
    group = sub.add_argument_group("who judges what no rule can compare; nobody, if not named")
    group.add_argument("--judge", metavar="URL", help="address of an OpenAI-compatible server")
    group.add_argument("--judge-model", metavar="NAME", help="the model's name there")


def _add_rollout(sub) -> None:
    from deepeyes_lite.tinyworld.questions import KINDS

    sub.add_argument("--out", type=Path, required=True, help="JSONL file to write")
    sub.add_argument("--samples", type=int, default=20, help="held-out scenes")
    sub.add_argument("--kind", choices=KINDS, default="read", help="of the questions")
    sub.add_argument("--folder", type=Path, help="your own pictures, instead of held-out scenes")
    sub.add_argument("--tool", choices=TOOLS, default="on", help="a control")
    sub.add_argument("--seed", type=int, default=0, help="of local sampling")
    sub.set_defaults(new=("out",))
    _add_model(sub)
    _add_judge(sub)


def _add_ask(sub) -> None:
    sub.add_argument("photo", type=Path, help="a picture; `deepeyes-lite scene` draws one")
    sub.add_argument("question")
    sub.add_argument("--out", type=Path, help="page to write (default ask.html, or the next free)")
    sub.set_defaults(new=("out",))
    _add_model(sub)


def _add_scene(sub) -> None:
    from deepeyes_lite.tinyworld.questions import KINDS

    sub.add_argument("--out", type=Path, default=Path("scene.png"), help="picture to write")
    sub.add_argument("--number", type=int, default=0, help="which of the held-out scenes")
    sub.add_argument("--kind", choices=KINDS, default="read", help="of the question")
    sub.set_defaults(new=("out",))


def _add_benchmark(sub) -> None:
    sub.add_argument("--data", type=Path, required=True, help="data set of `data`")
    sub.add_argument("--out", type=Path, required=True, help="folder of the records")
    sub.add_argument("--no-tool", action="store_true", help="prompts that offer no tool")
    sub.add_argument("--k", type=int, default=1, help="episodes of each question: Avg@k")
    sub.add_argument("--temperature", type=float, help="default 0 for k = 1, else 1")
    sub.add_argument("--seed", type=int, default=0, help="of the options' order and the sampling")
    sub.add_argument("--against", type=Path, help="records of another run, for a paired test")
    _add_model(sub)
    _add_judge(sub)


def rollout(args) -> None:
    from deepeyes_lite.files import atomic_write, check_or_write_config
    from deepeyes_lite.realworld.folder import from_folder
    from deepeyes_lite.realworld.served import rollout_to_file
    from deepeyes_lite.rollout import rollout as run
    from deepeyes_lite.tinyworld.dataset import held_out
    from deepeyes_lite.trajectories import REMARKS, write_jsonl

    if args.folder:
        dataset, errors = from_folder(args.folder)
    else:
        dataset, errors = held_out(args.samples, kind=args.kind), []
    for error in errors:
        say(error)
    judge = _judge(args, Path(f"{args.out}.judge.jsonl"))
    policy = _policy(args, temperature=0.0 if args.endpoint else 1.0)
    if args.endpoint:
        # Beside the file, so that a stopped batch does not go on with another model or prompt.
        settings = _settings(args, policy, judge, ("folder", "kind", "tool"))
        check_or_write_config(Path(f"{args.out}.settings"), settings)
        episodes = rollout_to_file(dataset, policy, args.out, args.tool, judge)
    else:
        episodes = run(dataset, policy, tool=args.tool, seed=args.seed, judge=judge)
        with atomic_write(args.out) as tmp:
            write_jsonl(episodes, tmp)
    correct = sum(episode.correct for episode in episodes)
    calls = sum(episode.called for episode in episodes)
    say(f"{correct} of {len(episodes)} correct, {calls} with a zoom: {args.out}")
    for name, count in Counter(r for episode in episodes for r in episode.remarks).items():
        say(f"{count} {REMARKS[name]}")
    if ended := [episode.turns[-1].errors[0] for episode in episodes if episode.turns[-1].errors]:
        say(f"the first of them: {ended[0]}")
    if judge:
        say(judge.summary())


def ask(args) -> int:
    from deepeyes_lite.realworld.folder import read_photo
    from deepeyes_lite.rollout import rollout as run
    from deepeyes_lite.trajectories import REMARKS
    from deepeyes_lite.viz.html import episode_text, line
    from deepeyes_lite.viz.widgets import TrajectoryViewer

    if args.out and args.out.suffix != ".html":
        raise ValueError(f"--out is a page, so its name ends in .html; got {str(args.out)!r}")
    sample = {"id": args.photo.name, "image": read_photo(args.photo), "question": args.question}
    policy = _policy(args, temperature=0.0)
    (episode,) = run([sample | {"answer": ""}], policy, progress=False)
    say(episode_text(episode))
    for name in episode.remarks:
        say(f"note: {REMARKS[name]}")
    if not args.endpoint and policy.spec.family == "tiny-eyes":
        say("tiny-eyes knows only its own world of coloured shapes; larger models: --endpoint")
    name = policy.endpoint.model if args.endpoint else args.adapter or args.model or args.trained
    page = TrajectoryViewer({str(name or "tiny-eyes"): [episode]})
    page.title = line(args.question)
    names = ("ask.html", *(f"ask-{n}.html" for n in range(2, 10_000)))
    out = args.out or next(path for path in map(Path, names) if not path.exists())
    say(f"page: {page.save(out)}")
    return int(bool(episode.turns[-1].errors))  # the server ended it


def scene(args) -> None:
    from deepeyes_lite.files import atomic_write
    from deepeyes_lite.tinyworld.dataset import tiny_world

    sample = tiny_world("test", 1, start=args.number, kind=args.kind)[0]
    with atomic_write(args.out) as tmp:
        sample["image"].save(tmp, "PNG")
    say(f"question: {sample['question']}\nanswer: {sample['answer']}\nscene: {args.out}")
    words = ["ask", str(args.out), sample["question"], "--adapter", "tiny-eyes-zooms"]
    say(f"ask the trained model: deepeyes-lite {shlex.join(words)}")


def benchmark(args) -> None:
    from deepeyes_lite.data import load
    from deepeyes_lite.files import check_or_write_config
    from deepeyes_lite.realworld import benchmarks

    if args.temperature is None:
        args.temperature = 0.0 if args.k == 1 else 1.0
    if args.k > 1 and args.temperature <= 0:
        raise ValueError("at temperature 0 all k answers are one; set --k 1 or a temperature")
    dataset = load(args.data)
    judge = _judge(args, args.out / "judge.jsonl")
    policy = _policy(args, args.temperature, not args.no_tool)
    names = ("data", "trained", "no_tool", "k", "temperature", "seed")
    check_or_write_config(args.out, _settings(args, policy, judge, names))
    report = benchmarks.benchmark(dataset, policy, args.out, args.k, args.seed, judge)
    say(benchmarks.table(report))
    if judge:
        say(judge.summary())
    if args.against:
        say(f"\n{args.out} minus {args.against}")
        differences = benchmarks.compare(args.out, args.against)
        say("\n".join(benchmarks.differences_table(differences)))


def _settings(args, policy, judge, names: tuple[str, ...]) -> dict:
    """What decides the answers of a batch, so that it does not go on with something else."""
    names = (*names, "model", "max_pixels", "environment", "endpoint", "prompt", "frame")
    settings = {name: str(getattr(args, name)) for name in names}
    if args.endpoint:
        settings |= {"model": policy.endpoint.model, "frame": policy.frame}
    for name in ("max_tokens", "adapter"):
        if getattr(args, name):
            settings[name] = getattr(args, name)
    return settings | {"judge": judge.endpoint.model if judge else "none"}


def _policy(args, temperature: float, tools: bool = True):
    """Who answers, as the options of `_add_model` say."""
    from deepeyes_lite.models import environment_named, find, load
    from deepeyes_lite.policies import LocalPolicy

    named = {"--run": args.trained, "--endpoint": args.endpoint}
    named |= {"--model": args.model, "--adapter": args.adapter}
    given = [flag for flag, value in named.items() if value]
    if (args.trained and len(given) > 1) or (args.endpoint and args.adapter):
        raise ValueError(f"{' and '.join(given)} are two models; choose one")
    environment = environment_named(args.environment)
    if args.endpoint:
        from deepeyes_lite.realworld.served import MAX_PIXELS, MAX_TOKENS, Endpoint, ServedPolicy

        return ServedPolicy(
            Endpoint(args.endpoint, args.model, args.timeout),
            args.prompt,
            args.frame,
            temperature,
            args.max_tokens or MAX_TOKENS,
            max_pixels=args.max_pixels or MAX_PIXELS,
            tools=tools,
            environment=environment,
            concurrency=args.concurrency,
        )
    if args.trained:
        from deepeyes_lite.training import load_trained, read_config

        model = load_trained(args.trained)
        environment = environment or environment_named(read_config(args.trained).environment)
    else:
        model = load(args.model or "tiny-eyes", max_pixels=args.max_pixels)
        if args.adapter:
            from peft import PeftModel

            adapted = PeftModel.from_pretrained(model[0], find(args.adapter))
            model = adapted.merge_and_unload(), model[1]
    return LocalPolicy(*model, tools, temperature, args.max_tokens, environment)


def _judge(args, cache: Path):
    from deepeyes_lite.realworld.judge import Judge
    from deepeyes_lite.realworld.served import JUDGE_KEY, Endpoint

    if args.judge:
        return Judge(Endpoint(args.judge, args.judge_model, key=JUDGE_KEY), cache)
    if args.judge_model:
        raise ValueError("--judge-model names a model of --judge; give its address, too")
    return None


# --- questions ----------------------------------------------------------------------------------------


def _add_data(sub) -> None:
    sub.add_argument("name", choices=SETS)
    sub.add_argument("--from", dest="source", type=Path, help="its files on this machine")
    sub.add_argument("--out", type=Path, required=True, help="folder to write")
    sub.add_argument("--limit", type=int, help="read so many rows at most")


def _add_select(sub) -> None:
    sub.add_argument("--out", type=Path, required=True, help="folder to write")
    sub.add_argument("--folder", type=Path, help="your own pictures; without it the tiny world")
    sub.add_argument("--data", type=Path, help="data set of `data`, instead of a folder")
    sub.add_argument("--samples", type=int, default=200, help="questions of the tiny world")
    sub.add_argument("--k", type=int, default=8, help="episodes of each question")
    corrupted = "share of each kind of corrupted row in the tiny world"
    sub.add_argument("--corrupted", type=float, default=0.1, help=corrupted)
    sub.add_argument("--model", default="tiny-eyes", help="a folder, or a name of the hub")
    sub.add_argument("--seed", type=int, default=0, help="of scenes and sampling")


def _add_export(sub) -> None:
    sub.add_argument("--data", type=Path, required=True, help="data set of `data` or `select`")
    sub.add_argument("--out", type=Path, required=True, help="parquet file to write")
    sub.set_defaults(new=("out",))


def data(args) -> None:
    from deepeyes_lite.realworld.public import summary, write

    dataset, errors = write(args.name, args.out, args.source, args.limit)
    for line in summary(errors):
        say(line)
    say(f"{len(dataset)} questions, {len(errors)} rows left out: {args.out}")


def select(args) -> None:
    from deepeyes_lite import selection
    from deepeyes_lite.data import load as load_data
    from deepeyes_lite.files import atomic_write, check_or_write_config
    from deepeyes_lite.models import load
    from deepeyes_lite.policies import LocalPolicy, OracleZoomPolicy
    from deepeyes_lite.realworld.folder import from_folder
    from deepeyes_lite.tinyworld.dataset import tiny_world
    from deepeyes_lite.tinyworld.questions import label_of
    from deepeyes_lite.viz.plots import pass_rate_bars, png

    names = ("folder", "data", "samples", "k", "corrupted", "model", "seed")
    check_or_write_config(args.out, {name: str(getattr(args, name)) for name in names})
    errors = []
    if args.folder:
        dataset, errors = from_folder(args.folder)
    elif args.data:
        dataset = load_data(args.data)
    else:
        corrupted = {"wrong label": args.corrupted, "unanswerable": args.corrupted}
        dataset = tiny_world("train", args.samples, corrupted=corrupted)
    for error in errors:
        say(error)
    model = load(args.model)
    dataset = selection.verifiable(selection.open_ended(dataset))
    dataset = selection.difficulty(
        dataset, LocalPolicy(*model), args.k, args.seed, args.out / "difficulty.jsonl"
    )
    greedy = LocalPolicy(*model, temperature=0.0)
    record, oracle = args.out / "tool_benefit.jsonl", OracleZoomPolicy(greedy, label_of)
    dataset = selection.tool_benefit(dataset, greedy, args.seed, record, oracle=oracle)
    with atomic_write(args.out / "selected") as tmp:
        selection.kept(dataset).save_to_disk(tmp)
    report = selection.report(dataset)
    with atomic_write(args.out / "report.json") as tmp:
        tmp.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    with atomic_write(args.out / "pass_rates.png") as tmp:
        tmp.write_bytes(png(pass_rate_bars(dataset["pass_rate"])))
    say(selection.table(report))
    say(f"the questions that are kept: {args.out / 'selected'}")


def export(args) -> None:
    from deepeyes_lite.data import load
    from deepeyes_lite.realworld.verl import export as run

    say(f"{run(load(args.data), args.out)} rows: {args.out}")


# --- this machine -------------------------------------------------------------------------------------


def _add_doctor(sub) -> None:
    from deepeyes_lite.config import PRESETS

    gpus = [name for name in PRESETS if name.endswith("GB")]
    sub.add_argument("--gpu", action="store_true", help="two real steps of a preset, measured")
    sub.add_argument("--preset", choices=gpus, default="24GB", help="which one")
    sub.add_argument("--model", default="", help="weights at hand, instead of the preset's")
    sub.add_argument("--quick", action="store_true", help="memory alone, in a minute or two")
    sub.add_argument("--record", type=Path, help="folder to keep its figures in, for the tables")


def doctor(args) -> int:
    if args.gpu:
        from deepeyes_lite.realworld.gpu import check, report, write_record

        figures = check(args.preset, args.model, args.quick)
        say(report(figures))
        if args.record:
            say(f"record: {write_record(figures, args.record)}")
        return 0
    from deepeyes_lite.doctor import main as run

    return run()


# --- for those who make deepeyes-lite -------------------------------------------------------------------


def _add_study(sub) -> None:
    sub.add_argument("--out", type=Path, default=Path("runs/study"), help="folder of the runs")
    sub.add_argument("--records", type=Path, help="what is kept (default OUT/records)")
    sub.add_argument("--only", default="*", help="pattern of the runs' names, such as 'none-*'")
    sub.add_argument("--preset", choices=("demo", "quick"), default="demo", help="of all runs")
    sub.add_argument("--model", default="tiny-eyes", help="folder of tiny-eyes")
    sub.add_argument("--seed", type=int, default=0, help="the first one")
    sub.add_argument("--samples", type=int, default=300, help="held-out scenes")


def _add_claims(sub) -> None:
    from deepeyes_lite import DATA

    records = "folder of the records"
    sub.add_argument("--records", type=Path, default=DATA / "runs" / "study", help=records)
    ledger = "file to write, with figures beside it"
    sub.add_argument("--out", type=Path, default=Path("runs/claims/claims.json"), help=ledger)


def _add_controls(sub) -> None:
    from deepeyes_lite import DATA

    sub.add_argument("--model", default="tiny-eyes", help="the base")
    sub.add_argument(
        "--adapter", type=Path, default=DATA / "tiny-eyes-zooms", help="of the trained"
    )
    sub.add_argument("--samples", type=int, default=300, help="held-out scenes")
    sub.add_argument("--out", type=Path, default=Path("runs/controls.json"), help="file to write")


def _add_two_tools(sub) -> None:
    from deepeyes_lite.rewards import VARIANTS

    sub.add_argument("--out", type=Path, default=Path("runs/two-tools"), help="folder of the runs")
    sub.add_argument("--records", type=Path, help="folder for a small record of the run, too")
    # What is not given is left to `two_tools.run`.
    sub.add_argument("--reward", choices=tuple(VARIANTS), help="a reward variant")
    sub.add_argument("--seed", type=int, help="of scenes, adapters and sampling")
    sub.add_argument("--steps", type=int, help="of GRPO")
    sub.add_argument("--samples", type=int, help="held-out questions of each kind")
    noise = "how far new words start from known ones; 0: copies"
    sub.add_argument("--init-noise", type=float, help=noise)
    sub.add_argument("--aimed-fraction", type=float, help="of the warm start's zooms")


def _add_pretrain(sub) -> None:
    sub.add_argument("--out", type=Path, required=True, help="folder to write")
    sub.add_argument("--quick", action="store_true", help="a smoke run of a minute")
    sub.add_argument("--seed", type=int, default=0, help="of weights and scenes")


def _add_card(sub) -> None:
    sub.add_argument("model", type=Path, help="folder of tiny-eyes; card.json is written into it")
    sub.add_argument("--samples", type=int, default=600, help="validation scenes")


def _add_animate(sub) -> None:
    sub.add_argument("run", type=Path, help="folder of a run, or of its record")
    figures = "folder to write"
    sub.add_argument("--out", type=Path, default=Path("runs/figures"), help=figures)


def study(args) -> None:
    from deepeyes_lite.config import preset
    from deepeyes_lite.study.run import study as run

    base = preset(args.preset, seed=args.seed, model=args.model)
    run(args.out, args.records or args.out / "records", base, args.only, args.samples)


def claims(args) -> None:
    from deepeyes_lite.files import atomic_write
    from deepeyes_lite.study.claims import ledger, table
    from deepeyes_lite.study.figures import write_figures
    from deepeyes_lite.study.records import load_records, spent

    rows = ledger(args.records)
    with atomic_write(args.out) as tmp:
        tmp.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    say(f"{table(rows)}\n\n{spent(load_records(args.records))}")
    for path in write_figures(args.records, rows, args.out.parent / "figures"):
        say(f"figure: {path}")


def controls(args) -> None:
    from deepeyes_lite.study.controls import controls, table

    say(table(controls(args.model, args.adapter, args.out, args.samples)))


def two_tools(args) -> None:
    from deepeyes_lite.study.two_tools import run, table

    names = ("seed", "reward", "steps", "samples", "init_noise", "aimed_fraction")
    given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    say(table(run(args.out, args.records, **given)))


def pretrain(args) -> None:
    from deepeyes_lite.tinyworld.pretraining.pretrain import PLAN, QUICK
    from deepeyes_lite.tinyworld.pretraining.pretrain import pretrain as run

    say(f"tiny-eyes: {run(args.out, QUICK if args.quick else PLAN, args.seed)}")


def card(args) -> None:
    from deepeyes_lite.tinyworld.pretraining.card import table, write_card

    say(table(write_card(args.model, args.samples)))


def animate(args) -> None:
    from deepeyes_lite.viz.animation import write

    say(f"{write(args.run, args.out)}\nwritten: zoom.gif and zoom.png in {args.out}")


# Name: what adds its options, what runs it, what it is for, an example.
COMMANDS = {
    "demo": (_add_demo, demo, "train, evaluate and report: the main job", "demo --preset quick"),
    "train": (
        _add_train,
        train,
        "train one run, or go on with a killed one",
        "train --reward none --seed 1 --out runs/none-1",
    ),
    "evaluate": (
        _add_evaluate,
        evaluate,
        "evaluate a finished run and write its report",
        "evaluate runs/none-1",
    ),
    "merge": (
        _add_merge,
        merge,
        "write a finished run as a whole model, for serving",
        "merge runs/none-1 --to my-model",
    ),
    "scene": (
        _add_scene,
        scene,
        "draw a held-out scene to ask about, with its question and its answer",
        "scene --out scene.png",
    ),
    "ask": (
        _add_ask,
        ask,
        "ask a question about a picture, and see the episode",
        'ask scene.png "What letter is on the red star?" --adapter tiny-eyes-zooms',
    ),
    "rollout": (
        _add_rollout,
        rollout,
        "let a model answer questions, into a JSONL file",
        "rollout --samples 20 --out episodes.jsonl",
    ),
    "benchmark": (
        _add_benchmark,
        benchmark,
        "ask V* Bench, HR-Bench or another data set",
        "benchmark --data runs/vstar --out runs/vstar-base",
    ),
    "data": (
        _add_data,
        data,
        "read a public set into a data set for train, select, benchmark",
        "data vstar --from vstar_bench --out runs/vstar",
    ),
    "select": (
        _add_select,
        select,
        "filter questions by what the base model makes of them",
        "select --out runs/selection",
    ),
    "export": (
        _add_export,
        export,
        "write a data set as DeepEyes' parquet, for verl or ms-swift",
        "export --data runs/selection/selected --out selected.parquet",
    ),
    "doctor": (_add_doctor, doctor, "check the machine, one line per requirement", "doctor"),
    "study": (_add_study, study, "run the study's plan, or go on with it", "study --only 'none-*'"),
    "claims": (_add_claims, claims, "fill the claims ledger from the study's records", "claims"),
    "controls": (
        _add_controls,
        controls,
        "ask without the tool in three ways, of which one is fair",
        "controls --samples 100",
    ),
    "two-tools": (
        _add_two_tools,
        two_tools,
        "train with the zoom and a second tool, and evaluate",
        "two-tools --steps 40",
    ),
    "pretrain": (
        _add_pretrain,
        pretrain,
        "make tiny-eyes from scratch (about three hours)",
        "pretrain --out my-eyes",
    ),
    "card": (
        _add_card,
        card,
        "measure tiny-eyes and write card.json beside it",
        "card my-eyes",
    ),
    "animate": (
        _add_animate,
        animate,
        "draw a recorded run as a short animation",
        "animate runs/none-1",
    ),
}
GROUPS = {
    "runs": ("demo", "train", "evaluate", "merge"),
    "episodes": ("scene", "ask", "rollout", "benchmark"),
    "questions": ("data", "select", "export"),
    "this machine": ("doctor",),
    "for those who make deepeyes-lite": (
        "study",
        "claims",
        "controls",
        "two-tools",
        "pretrain",
        "card",
        "animate",
    ),
}


if __name__ == "__main__":
    sys.exit(main())
