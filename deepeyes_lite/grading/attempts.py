"""Run learners' attempts at exercises in a process of their own, with limits.

Limits are of time for each exercise, and of memory for the process and what it starts, looked at ten
times a second. Output is thrown away, and a process that hangs, grows or ends costs the one exercise
that it was at: the next one gets a new process.

This keeps mistakes from harming the grader. It is no sandbox: an attempt runs with the rights of whoever
grades, may read and write their files and use their network, and, being in one process with the check,
could forge its verdict. Read code that you do not trust before you grade it, or grade in a container.
"""

import json
import os
import re
import secrets
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import psutil

from deepeyes_lite.grading.exercises import ROOT, Exercise, attempt_of, given, judge

START = 600  # seconds until the libraries are there, on a busy machine


def said_about(
    asked: list[Exercise],
    cells: list[str],
    course: list[str],
    seconds: float = 60,
    gigabytes: float = 4,
) -> list[str]:
    """What is said about a learner's attempt at each exercise: by its check, or why that said nothing.

    Args:
        asked: the exercises.
        cells: the code cells of the learner's notebook.
        course: those of the course's own, whose imports are not to count as a learner's time.
        seconds: for each exercise.
        gigabytes: of memory, with all libraries in it.

    Raises:
        RuntimeError: the libraries cannot be imported.
    """
    said: list[str] = []
    while len(said) < len(asked):
        said += _run(asked[len(said) :], cells, course, seconds, gigabytes * 1e9)
    return said


def _run(asked, cells, course, seconds: float, memory: float) -> list[str]:
    """What is said about the first exercises, one of them at least: a process that ends ends there."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as place:
        job, told, errors = (Path(place, name) for name in ("job.json", "told", "errors"))
        Path(place, "work").mkdir()
        token = secrets.token_hex(16)
        told.touch()
        task = {"token": token, "cells": cells, "course": course}
        task["exercises"] = [asdict(exercise) for exercise in asked]
        job.write_text(json.dumps(task), encoding="utf-8")
        with errors.open("wb") as stderr:
            process = subprocess.Popen(
                [sys.executable, "-m", "deepeyes_lite.grading.attempts", str(job), str(told)],
                cwd=Path(place, "work"),
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
            )
        reason = _watch(process, told, token, seconds, memory)
        events = _events(told, token)
        if not events:
            last = errors.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
            raise RuntimeError(
                f"the process for the exercises did not start ({reason or ' '.join(last)}); "
                "`python -m deepeyes_lite doctor` looks for the cause"
            )
        said = events[1:]
        if len(said) < len(asked):
            reason = reason or f"the process ended by itself, with code {process.returncode}"
            said.append(f"[not yet] {reason}")
        return said


def _environment() -> dict[str, str]:
    """No secrets, no network for the libraries, and this package, wherever the process starts."""
    secret = re.compile("token|key|secret|passw|credential", re.IGNORECASE)
    mine = {name: value for name, value in os.environ.items() if not secret.search(name)}
    quiet = {"HF_HUB_OFFLINE": "1", "TRL_EXPERIMENTAL_SILENCE": "1", "PYTHONUTF8": "1"}
    return {**mine, **quiet, "PYTHONPATH": str(ROOT)}


def _events(told: Path, token: str) -> list[str]:
    """What the process has told so far: that it is ready, then what is said about each exercise."""
    with told.open("rb") as file:
        lines = file.read(1_000_000).split(b"\n")[:-1]
    events = []
    for entry in lines:
        with suppress(ValueError, KeyError, TypeError):
            found = json.loads(entry)
            if found["token"] == token:
                events.append(str(found["said"]))
    return events


def _watch(process, told: Path, token: str, seconds: float, memory: float) -> str:
    """Wait for the end, or make it and give the reason. What the process has started ends with it."""
    family, reason = {psutil.Process(process.pid)}, ""
    seen, since = 0, time.monotonic()
    try:
        while process.poll() is None and not reason:
            time.sleep(0.1)
            size = 0
            for member in list(family):
                with suppress(psutil.Error):
                    family.update(member.children(recursive=True))
                    size += member.memory_info().rss
            events, now = len(_events(told, token)), time.monotonic()
            if events > seen:
                seen, since = events, now
            limit = seconds if seen else START
            if now - since > limit:
                reason = f"no end within {limit:g} s"
            elif size > memory:
                reason = f"more than {memory / 1e9:g} GB of memory"
    finally:  # at Ctrl-C, too
        for member in family:
            with suppress(psutil.Error):
                member.kill()
        process.wait()
    return reason


def _attempts(job: Path, told: Path) -> None:
    """The process: import what the course's notebook imports, then one exercise after the other."""
    task = json.loads(job.read_text(encoding="utf-8"))
    job.unlink()
    attempt_of([*task["course"], "def nothing(): pass"], "nothing")
    asked = [Exercise(**entry) for entry in task["exercises"]]
    for name in {name for exercise in asked for name in exercise.more}:
        given(name)

    def tell(said: str) -> None:
        with told.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"token": task["token"], "said": said}) + "\n")

    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    tell("ready")
    for exercise in asked:
        try:
            said = judge(exercise, attempt_of(task["cells"], exercise.function))
        except BaseException as error:  # sys.exit() too
            said = f"[not yet] {type(error).__name__}: {error}"[:2000]
        tell(said)
    os._exit(0)  # without waiting for threads that an attempt has left


if __name__ == "__main__":
    _attempts(Path(sys.argv[1]), Path(sys.argv[2]))
