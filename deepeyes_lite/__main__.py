"""The commands: ``python -m deepeyes_lite --help`` lists them."""

import argparse
import os
import sys
import warnings
from pathlib import Path

from deepeyes_lite.commands import episodes, runs, sets, world


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

    for room in (runs, episodes, sets, world):
        room.add(command)
    sub = command("grade", grade, "marks for learners' notebooks; 0 if every exercise is solved")
    sub.add_argument("paths", type=Path, nargs="+", metavar="notebook.ipynb", help="or a folder")
    sub.add_argument("--csv", type=Path, help="file to write, a line for each exercise")
    sub.add_argument("--seconds", type=float, default=60, help="for each exercise")
    sub.add_argument("--memory", type=float, default=4, help="gigabytes for each notebook")
    sub = command("doctor", doctor, "check the machine, one line per requirement")
    sub.add_argument("--gpu", action="store_true", help="train two steps of a preset, and measure")
    sub.add_argument("--preset", default="24GB", help="which one: 8GB … 80GB")
    sub.add_argument("--model", default="", help="a folder, instead of the preset's model")
    sub.add_argument("--record", type=Path, help="folder to keep its figures in, for the tables")
    return parser


def grade(args) -> int:
    from deepeyes_lite.grading.marks import main as run

    return run(args.paths, args.csv, args.seconds, args.memory)


def doctor(args) -> int:
    if args.gpu:
        from deepeyes_lite.realworld.gpu import check, report, write_record

        measured = check(args.preset, args.model)
        print(report(measured))
        if args.record:
            print(f"record: {write_record(measured, args.record)}")
        return 0
    from deepeyes_lite.doctor import main as run

    return run()


if __name__ == "__main__":
    sys.exit(main())
