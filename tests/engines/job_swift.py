"""ms-swift with our plugin: greedy episodes in its own loop, and two steps by the command of docs/engines.md.

Run by run.py, in swift's own environment. What writes is tiny-eyes through transformers, on the CPU.
"""

import asyncio
import os
import re
import subprocess
from types import SimpleNamespace

import pyarrow.parquet as parquet
import torch
from report import ROOT, WORK, report, versions
from swift.infer_engine import RequestConfig, TransformersEngine
from swift.infer_engine.protocol import RolloutInferRequest, RolloutOutput
from swift.rollout.agent_loop import run_multi_turn

from deepeyes_lite.realworld.swift_plugin import Reward, Zoom
from deepeyes_lite.trajectories import read_jsonl


def greedy_episodes(n: int = 24) -> None:
    engine = TransformersEngine(
        str(WORK / "eyes"),
        model_type="qwen3_vl",
        template_type="qwen3_vl",
        torch_dtype=torch.float32,
        max_batch_size=8,
    )
    zoom = Zoom(template=engine.template, tokenizer=engine.processor.tokenizer)
    rows = parquet.read_table(WORK / "questions.parquet").to_pylist()[:n]
    columns = ("data_source", "reward_model", "extra_info")
    requests = [
        RolloutInferRequest(
            messages=row["prompt"],
            images=[row["images"][0]],
            data_dict={name: row[name] for name in columns},
        )
        for row in rows
    ]

    def write(requests, config):
        for request in requests:  # swift's trainer opens what its dataset holds
            request.images = [
                image["bytes"] if isinstance(image, dict) else image for image in request.images
            ]
        return [RolloutOutput(response=r) for r in engine.infer(requests, config, use_tqdm=False)]

    config = RequestConfig(max_tokens=40, temperature=0, return_details=True)
    asyncio.run(zoom.on_trajectory_start(requests))
    first = write(requests, config)
    outputs = run_multi_turn(requests, first, zoom, write, config, max_turns=7)
    infos = [output.rollout_infos for output in outputs]
    asked = {name: [row[name] for row in rows] for name in columns}
    rewards = Reward(SimpleNamespace())([""] * n, **asked, rollout_infos=infos)
    local = read_jsonl(WORK / "local.jsonl")[:n]
    same = sum(info["turns"] == [t.text for t in e.turns] for info, e in zip(infos, local))
    paid = sum(r == (2.0 if e.correct else 0.0) for r, e in zip(rewards, local))
    assert same == paid == n, (same, paid, n, infos[0], local[0].turns)
    report(
        "swift's multi-turn loop, tiny-eyes greedy",
        f"{same} of {n} episodes and {paid} of {n} rewards are the local ones, box by box",
    )


def train() -> None:
    """The command of docs/engines.md, for two steps on this machine."""
    text = (ROOT / "docs" / "engines.md").read_text(encoding="utf-8")
    command = re.search(r"```\n(REALWORLD=[^`]*?swift rlhf.*?)```", text, re.DOTALL)[1].rstrip()
    command = command.replace("Qwen/Qwen2.5-VL-7B-Instruct", str(ROOT / "data" / "tiny-eyes"))
    command = command.replace("selected.parquet", str(WORK / "questions.parquet"))
    command = command.replace("--use_vllm true --vllm_mode colocate", "--use_vllm false")
    command += (
        " --model_type qwen3_vl --template qwen3_vl --torch_dtype float32 --bf16 false --fp16 false"
        " --num_generations 8 --per_device_train_batch_size 16 --gradient_accumulation_steps 1"
        " --max_completion_length 40 --max_length 1024 --max_steps 2 --logging_steps 1 --save_strategy no"
        " --report_to none --dataset_num_proc 1 --dataloader_num_workers 0 --lora_rank 4"
        f" --output_dir {WORK / 'swift' / 'run'}\n"
    )
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, timeout=900, env=dict(os.environ)
    )
    output = done.stdout + done.stderr
    (WORK / "swift_train.txt").write_text(output, encoding="utf-8")
    steps = re.findall(r"\{.*?'reward': .*?\}", output)
    assert done.returncode == 0 and len(steps) >= 2, output[-3000:]

    def figure(name: str) -> str:
        return ", ".join(re.findall(rf"'{name}': '?([-\d.e]+)", " ".join(steps))[:2])

    turns, norms = (
        [float(n) for n in figure(name).split(", ")] for name in ("num_turns", "grad_norm")
    )
    assert min(turns) > 1 and max(norms) > 0, (turns, norms)
    report(
        "two multi-turn GRPO steps (`swift rlhf`, the command below)",
        f"rewards {figure('reward')}; turns {figure('num_turns')}; gradient norms {figure('grad_norm')}; "
        f"{figure('step_time')} s a step",
    )


if __name__ == "__main__":
    report("versions", versions("ms-swift", "transformers", "torch", "trl", "peft", "datasets"))
    greedy_episodes()
    train()
