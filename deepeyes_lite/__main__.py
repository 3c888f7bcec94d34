"""The commands: ``python -m deepeyes_lite --help`` lists them."""

import argparse
import json
import os
import sys
import warnings
from dataclasses import replace
from pathlib import Path


def main(argv: list[str] | None = None) -> int:
    """Run a command; 0 if it went well."""
    args = _parser().parse_args(argv)
    _quiet()
    try:
        return args.run(args) or 0
    except (ValueError, OSError, ArithmeticError, RuntimeError) as error:
        if args.debug:
            raise
        print(f"deepeyes-lite {args.command}: {error}", file=sys.stderr)
        return 1


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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m deepeyes_lite", description=__doc__)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = parser.add_subparsers(dest="command", required=True)

    def command(name: str, run, text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(run=run)
        return sub

    for name, run, text in (
        ("demo", demo, "train, evaluate and report: the main job"),
        ("train", train, "train one run, or go on with a killed one"),
    ):
        sub = command(name, run, text)
        sub.add_argument("--out", type=Path, help="run folder (default runs/PRESET-ARM-SEED)")
        sub.add_argument("--preset", default="demo", help="demo, quick, or a GPU's memory: 24GB")
        sub.add_argument("--arm", help="a reward variant: conditional, none, …")
        sub.add_argument("--bonus", type=float, help="of a correct answer with a zoom")
        sub.add_argument("--steps", type=int)
        sub.add_argument("--seed", type=int)
        sub.add_argument("--learning-rate", type=float)
        sub.add_argument("--legible-share", type=float)
        sub.add_argument("--model", help="a folder, or a name of the hub")
        sub.add_argument("--data", help="dataset of `select`, instead of fresh scenes")
        sub.add_argument(
            "--cold-start", type=int, help="steps of SFT on traces made of target boxes"
        )
        sub.add_argument(
            "--trl",
            action="append",
            default=[],
            metavar="NAME=VALUE",
            help="an option of TRL's GRPOConfig, passed on; may be given many times",
        )
        if name == "demo":
            sub.add_argument("--samples", type=int, default=300, help="held-out scenes")
    sub = command("evaluate", evaluate, "evaluate a finished run and write its report")
    sub.add_argument("--out", type=Path, required=True, help="run folder")
    sub.add_argument("--samples", type=int, default=300, help="held-out scenes")
    sub = command("merge", merge, "write a finished run as a whole model, for serving")
    sub.add_argument("--out", type=Path, required=True, help="run folder")
    sub.add_argument("--to", type=Path, required=True, help="folder to write")
    sub = command("rollout", rollout, "roll out a model on held-out scenes into a JSONL file")
    sub.add_argument("--out", type=Path, required=True, help="JSONL file to write")
    sub.add_argument("--run-folder", type=Path, help="a finished run; without it the base model")
    sub.add_argument("--samples", type=int, default=20)
    sub.add_argument("--kind", default="read", help="of the questions: read, compare, exists, …")
    sub.add_argument("--folder", type=Path, help="your own pictures, instead of held-out scenes")
    sub.add_argument("--tool", default="on", help="on, off, blank or other")
    sub.add_argument("--seed", type=int, default=0, help="of local sampling")
    _add_endpoint(sub)
    sub = command("ask", ask, "ask a question about a picture, and see the episode")
    sub.add_argument("photo", type=Path)
    sub.add_argument("question")
    sub.add_argument("--run-folder", type=Path, help="a finished run; without it the base model")
    sub.add_argument("--out", type=Path, default=Path("ask.html"), help="page to write")
    _add_endpoint(sub)
    sub = command("data", data, "read a public set into a dataset for train, select and benchmark")
    sub.add_argument("name", help="deepeyes, vstar, hrbench-4k, hrbench-8k, pope, …")
    sub.add_argument("--from", dest="source", type=Path, help="its files on this machine")
    sub.add_argument("--out", type=Path, required=True, help="folder to write")
    sub.add_argument("--limit", type=int, help="read so many rows at most")
    sub = command("export", export, "write a dataset as DeepEyes' parquet, for verl or ms-swift")
    sub.add_argument("--data", type=Path, required=True, help="dataset of `data` or `select`")
    sub.add_argument("--out", type=Path, required=True, help="parquet file to write")
    sub = command("select", select, "filter questions by what the base model makes of them")
    sub.add_argument("--out", type=Path, required=True, help="folder to write")
    sub.add_argument("--folder", type=Path, help="your own pictures; without it the tiny world")
    sub.add_argument("--data", type=Path, help="dataset of `data`, instead of a folder")
    sub.add_argument("--samples", type=int, default=200, help="questions of the tiny world")
    sub.add_argument("--k", type=int, default=8, help="episodes of each question")
    sub.add_argument("--spoiled", type=float, default=0.1, help="share of each kind of planted row")
    sub.add_argument("--model", type=Path, default=Path("data/tiny-eyes"))
    sub.add_argument("--seed", type=int, default=0)
    sub = command("benchmark", benchmark, "ask V* Bench, HR-Bench or another dataset of `data`")
    sub.add_argument("--data", type=Path, required=True, help="dataset of `data`")
    sub.add_argument("--out", type=Path, required=True, help="folder of the records")
    sub.add_argument("--model", help="folder of tiny-eyes")
    sub.add_argument("--run-folder", type=Path, help="a finished run, instead of a model")
    sub.add_argument("--no-tool", action="store_true", help="prompts that offer no tool")
    sub.add_argument("--k", type=int, default=1, help="episodes of each question: Avg@k")
    sub.add_argument("--temperature", type=float, help="default 0 for k = 1, else 1")
    sub.add_argument("--seed", type=int, default=0, help="of the options' order and the sampling")
    sub.add_argument("--against", type=Path, help="records of another run, for a paired test")
    sub = command("study", study, "run the study's plan, or go on with it")
    sub.add_argument("--out", type=Path, default=Path("runs/study"), help="folder of the runs")
    sub.add_argument("--records", type=Path, default=Path("data/runs/study"), help="what is kept")
    sub.add_argument("--only", default="*", help="pattern of the runs' names, such as 'none-*'")
    sub.add_argument("--preset", default="demo", help="what all runs share: demo or quick")
    sub.add_argument("--model", help="folder of tiny-eyes")
    sub.add_argument("--samples", type=int, default=300, help="held-out scenes")
    sub = command("claims", claims, "fill the claims ledger from the study's records")
    sub.add_argument("--records", type=Path, default=Path("data/runs/study"))
    sub.add_argument("--out", type=Path, default=Path("data/claims.json"), help="file to write")
    sub = command("pretrain", pretrain, "make tiny-eyes from scratch (about three hours)")
    sub.add_argument("--out", type=Path, required=True, help="folder to write")
    sub.add_argument("--quick", action="store_true", help="a smoke run of a minute")
    sub.add_argument("--seed", type=int, default=0)
    sub = command("card", card, "measure tiny-eyes and write card.json beside it")
    sub.add_argument("--model", type=Path, default=Path("data/tiny-eyes"))
    sub.add_argument("--samples", type=int, default=600)
    sub = command("grade", grade, "marks for learners' notebooks; 0 if every exercise is solved")
    sub.add_argument("paths", type=Path, nargs="+", metavar="notebook.ipynb", help="or a folder")
    sub.add_argument("--csv", type=Path, help="file to write, a line for each exercise")
    sub.add_argument("--seconds", type=float, default=60, help="for each exercise")
    sub.add_argument("--memory", type=float, default=4, help="gigabytes for each notebook")
    sub = command("doctor", doctor, "check the machine, one line per requirement")
    sub.add_argument("--gpu", action="store_true", help="try a preset: a few minutes, no download")
    sub.add_argument("--preset", default="24GB", help="which one: 8GB … 80GB")
    return parser


def _add_endpoint(sub: argparse.ArgumentParser) -> None:
    group = sub.add_argument_group("a served model")
    group.add_argument("--endpoint", help="address of an OpenAI-compatible server")
    group.add_argument("--model", help="the model's name there")
    group.add_argument("--prompt", default="tools", help="tools, or deepeyes for its own weights")
    group.add_argument("--frame", help="box_1000 or box_view, if not that of the prompt")
    group.add_argument("--max-pixels", type=int, help="greatest area of a view")
    group.add_argument("--timeout", type=float, default=120, help="seconds for one answer")
    group.add_argument("--concurrency", type=int, default=8, help="requests at a time")


def _served(args):
    from deepeyes_lite.realworld.endpoint import Endpoint
    from deepeyes_lite.realworld.endpoint_policy import MAX_PIXELS, EndpointPolicy

    if args.run_folder:
        raise ValueError("--run-folder and --endpoint are two models; choose one")
    endpoint = Endpoint(args.endpoint, args.model, args.timeout, concurrency=args.concurrency)
    pixels = args.max_pixels or MAX_PIXELS
    return EndpointPolicy(endpoint, args.prompt, args.frame, max_pixels=pixels)


def _local(args, temperature: float):
    from deepeyes_lite.loading import load
    from deepeyes_lite.policies import LocalPolicy
    from deepeyes_lite.training import RunConfig, load_trained

    if args.model:
        raise ValueError("--model names a model of --endpoint; a trained one is --run-folder")
    model = load_trained(args.run_folder) if args.run_folder else load(RunConfig.model)
    return LocalPolicy(*model, temperature=temperature)


def _config(args):
    from deepeyes_lite.presets import options, preset

    names = ("arm", "bonus", "steps", "seed", "learning_rate", "legible_share", "model", "data")
    names = (*names, "cold_start")
    changes = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    config = preset(args.preset, **changes)
    if args.trl:
        config = replace(config, trl={**config.trl, **options(args.trl)})
    out = args.out or Path("runs") / f"{args.preset}-{config.arm}-{config.seed}"
    return config, out


def train(args) -> None:
    from deepeyes_lite.training import train as run

    config, out = _config(args)
    print(f"trained: {run(config, out)}")


def evaluate(args) -> None:
    from deepeyes_lite.evaluation import evaluate_run, table
    from deepeyes_lite.report import write_report

    print(table(evaluate_run(args.out, args.samples)))
    print(f"report: {write_report(args.out)}")


def demo(args) -> None:
    train(args)
    args.out = _config(args)[1]
    evaluate(args)


def merge(args) -> None:
    from deepeyes_lite.realworld.publishing import merge as run

    print(f"merged: {run(args.out, args.to)}")


def rollout(args) -> None:
    from deepeyes_lite.evaluation import held_out
    from deepeyes_lite.folder import from_folder
    from deepeyes_lite.rollout import rollout as run
    from deepeyes_lite.rollout import rollout_to_file
    from deepeyes_lite.training import claim
    from deepeyes_lite.trajectories import write_jsonl

    if args.folder:
        dataset, errors = from_folder(args.folder)
    else:
        dataset, errors = held_out(args.samples, kind=args.kind), []
    for error in errors:
        print(error)
    if args.endpoint:
        policy = _served(args)
        # Beside the file, so that a stopped batch does not go on with another model or prompt.
        names = ("folder", "kind", "tool", "endpoint")
        settings = {name: str(getattr(args, name)) for name in names}
        settings |= {"model": policy.endpoint.model, "prompt": policy.prompt}
        settings |= {"frame": policy.frame, "max_pixels": policy.max_pixels}
        claim(Path(f"{args.out}.settings"), settings)
        episodes = rollout_to_file(dataset, policy, args.out, args.tool, args.concurrency)
    else:
        episodes = run(dataset, _local(args, 1.0), tool=args.tool, seed=args.seed)
        write_jsonl(episodes, args.out)
    right = sum(episode.correct for episode in episodes)
    calls = sum(episode.called for episode in episodes)
    print(f"{right} of {len(episodes)} right, {calls} with a zoom: {args.out}")
    if ended := [t.turns[-1].errors[0] for t in episodes if t.turns[-1].errors]:
        print(f"{len(ended)} ended by the server and counted wrong: {ended[0]}")


def ask(args) -> int:
    from deepeyes_lite.files import whole
    from deepeyes_lite.images import read_photo
    from deepeyes_lite.pages import episode_page, episode_text
    from deepeyes_lite.rollout import rollout as run

    if args.out.suffix != ".html" or args.out.is_dir():  # it is replaced, whatever it was
        raise ValueError(f"--out is a page, so its name ends in .html; got {str(args.out)!r}")
    sample = {"id": args.photo.name, "image": read_photo(args.photo), "question": args.question}
    policy = _served(args) if args.endpoint else _local(args, 0.0)
    (episode,) = run([sample | {"answer": ""}], policy, progress=False)
    print(episode_text(episode))
    if not args.endpoint:
        print("tiny-eyes knows only its own world of coloured shapes; larger models: --endpoint")
    who = policy.endpoint.model if args.endpoint else args.run_folder or "tiny-eyes"
    with whole(args.out) as aside:
        aside.write_text(episode_page({str(who): episode}), encoding="utf-8")
    print(f"page: {args.out}")
    return int(bool(episode.turns[-1].errors))  # the server ended it


def data(args) -> None:
    from deepeyes_lite.folder import summary
    from deepeyes_lite.realworld.public import write

    dataset, errors = write(args.name, args.out, args.source, args.limit)
    for line in summary(errors):
        print(line)
    print(f"{len(dataset)} questions, {len(errors)} rows left out: {args.out}")


def export(args) -> None:
    from deepeyes_lite.data import load
    from deepeyes_lite.realworld.verl import export as run

    print(f"{run(load(args.data), args.out)} rows: {args.out}")


def select(args) -> None:
    from deepeyes_lite import selection
    from deepeyes_lite.data import load as load_data
    from deepeyes_lite.data import tiny_world
    from deepeyes_lite.folder import from_folder
    from deepeyes_lite.loading import load
    from deepeyes_lite.plots import pass_rate_bars, png
    from deepeyes_lite.policies import LocalPolicy
    from deepeyes_lite.training import claim

    names = ("folder", "data", "samples", "k", "spoiled", "model", "seed")
    claim(args.out, {name: str(getattr(args, name)) for name in names})
    if args.folder:
        dataset, errors = from_folder(args.folder)
        for error in errors:
            print(error)
    elif args.data:
        dataset = load_data(args.data)
    else:
        spoiled = {"wrong label": args.spoiled, "unanswerable": args.spoiled}
        dataset = tiny_world("train", args.samples, spoiled=spoiled)
    model = load(args.model)
    dataset = selection.verifiable(selection.open_ended(dataset))
    dataset = selection.difficulty(
        dataset, LocalPolicy(*model), args.k, args.seed, args.out / "difficulty.jsonl"
    )
    surely = LocalPolicy(*model, temperature=0.0)
    dataset = selection.tool_benefit(dataset, surely, args.seed, args.out / "tool_benefit.jsonl")
    selection.kept(dataset).save_to_disk(args.out / "selected")
    found = selection.report(dataset)
    (args.out / "report.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    (args.out / "pass_rates.png").write_bytes(png(pass_rate_bars(dataset["pass_rate"])))
    print(selection.table(found))
    print(f"the questions that are kept: {args.out / 'selected'}")


def benchmark(args) -> None:
    from deepeyes_lite.data import load as load_data
    from deepeyes_lite.loading import load
    from deepeyes_lite.policies import LocalPolicy
    from deepeyes_lite.realworld import benchmarks
    from deepeyes_lite.training import RunConfig, claim, load_trained

    if args.temperature is None:
        args.temperature = 0.0 if args.k == 1 else 1.0
    if args.k > 1 and args.temperature <= 0:
        raise ValueError("at temperature 0 all k answers are one; set --k 1 or a temperature")
    dataset = load_data(args.data)
    names = ("data", "model", "run_folder", "no_tool", "k", "temperature", "seed")
    claim(args.out, {name: str(getattr(args, name)) for name in names})
    model = (
        load_trained(args.run_folder) if args.run_folder else load(args.model or RunConfig.model)
    )
    policy = LocalPolicy(*model, tools=not args.no_tool, temperature=args.temperature)
    print(benchmarks.table(benchmarks.benchmark(dataset, policy, args.out, args.k, args.seed)))
    if args.against:
        print(f"\n{args.out} minus {args.against}")
        found = benchmarks.compare(args.out, args.against)
        print("\n".join(benchmarks.differences_table(found)))


def study(args) -> None:
    from deepeyes_lite.presets import preset
    from deepeyes_lite.study import study as run

    base = preset(args.preset, **({"model": args.model} if args.model else {}))
    run(args.out, args.records, base, args.only, args.samples)


def claims(args) -> None:
    from deepeyes_lite.claims import ledger, table
    from deepeyes_lite.study_plots import write_figures

    rows = ledger(args.records)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    print(table(rows))
    for path in write_figures(args.records, rows, args.out.parent / "figures"):
        print(f"figure: {path}")


def pretrain(args) -> None:
    from deepeyes_lite.tinyworld.pretrain import PLAN, QUICK
    from deepeyes_lite.tinyworld.pretrain import pretrain as run

    print(f"tiny-eyes: {run(args.out, QUICK if args.quick else PLAN, args.seed)}")


def card(args) -> None:
    from deepeyes_lite.tinyworld.card import table, write_card

    print(table(write_card(args.model, args.samples)))


def grade(args) -> int:
    from deepeyes_lite.grading.marks import main as run

    return run(args.paths, args.csv, args.seconds, args.memory)


def doctor(args) -> int:
    if args.gpu:
        from deepeyes_lite.realworld.smoke import report, smoke

        print(report(smoke(args.preset)))
        return 0
    from deepeyes_lite.doctor import main as run

    return run()


if __name__ == "__main__":
    sys.exit(main())
