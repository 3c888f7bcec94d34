"""verl on our export: its dataset, its tool loop, its reward manager, the launch command of docs/engines.md.

Run by run.py, in verl's own environment. What writes is tiny-eyes through transformers, or a script;
everything around it is verl's, but for the tool, the dataset class and the reward, which are ours.
"""

import asyncio
import io
import os
import re
import subprocess
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from report import ROOT, WORK, report, versions
from transformers import AutoModelForImageTextToText
from verl import DataProto
from verl.experimental.agent_loop.agent_loop import DictConfigWrap, ToolListWrap
from verl.experimental.agent_loop.tool_agent_loop import ToolAgentLoop
from verl.tools.tool_registry import load_all_tools
from verl.trainer.ppo.reward import load_reward_manager
from verl.utils.dataset.rl_dataset import RLHFDataset, get_dataset_class
from verl.utils.tokenizer import hf_processor, hf_tokenizer
from verl.workers.rollout.replica import TokenOutput

from deepeyes_lite.trajectories import read_jsonl
from verl_episodes import EMPTY, EPISODES, NO_SUCH, decoded, templates, with_truth

PARQUET = WORK / "questions.parquet"
REALWORLD = ROOT / "deepeyes_lite" / "realworld"


class Script:
    """In the place of verl's rollout server: writes given turns."""

    def __init__(self, tokenizer, turns: list[str]):
        self.tokenizer, self.turns = tokenizer, list(turns)

    async def generate(self, request_id, *, prompt_ids, sampling_params, image_data=None, **_):
        text = self.turns.pop(0) + "<|im_end|>"
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return TokenOutput(token_ids=ids)


class Eyes:
    """In the place of verl's rollout server: a model through transformers, greedily."""

    def __init__(self, folder, processor):
        self.model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
        self.processor = processor

    @torch.no_grad()
    async def generate(self, request_id, *, prompt_ids, sampling_params, image_data=None, **_):
        ids = torch.tensor([prompt_ids])  # (1, tokens so far)
        written = self.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            mm_token_type_ids=(ids == self.processor.image_token_id).long(),
            **self.processor.image_processor(images=image_data, return_tensors="pt"),
            do_sample=False,
            max_new_tokens=40,
        )
        return TokenOutput(token_ids=written[0, len(prompt_ids) :].tolist())


class Verl:
    """verl's parts for one model, under the configuration that we ship."""

    def __init__(self, folder: Path, template: str | None = None):
        os.environ |= {"MODEL": str(folder), "REALWORLD": str(REALWORLD)}
        with initialize_config_dir(str(REALWORLD), version_base=None):
            self.config = compose(
                "verl_grpo",
                overrides=[f"data.train_files=[{PARQUET}]", f"data.val_files=[{PARQUET}]"]
                + ["data.filter_overlong_prompts_workers=1", f"+data.cache_dir={WORK / 'cache'}"],
            )
        self.tokenizer, self.processor = hf_tokenizer(str(folder)), hf_processor(str(folder))
        if template:  # as verl's custom_chat_template does
            self.tokenizer.chat_template = self.processor.chat_template = template
        data, turns = self.config.data, self.config.actor_rollout_ref.rollout.multi_turn
        kind = get_dataset_class(data)
        self.dataset = kind(data.train_files, self.tokenizer, data, self.processor)
        with redirect_stdout(io.StringIO()):
            self.tools = load_all_tools(turns.tool_config_path, None)
        self.parts = {
            "trainer_config": DictConfigWrap(self.config),
            "tokenizer": self.tokenizer,
            "processor": self.processor,
            "dataset_cls": kind,
            "data_config": DictConfigWrap(data),
            "hf_model_type": self.processor.config.model_type,
            "tools": ToolListWrap(self.tools),
        }
        self.manager = load_reward_manager(self.config, self.tokenizer)

    async def play(self, row: dict, server, tell: bool = True) -> tuple[str, str, float]:
        """An episode: its prompt, its response as the reward manager decodes it, its reward.

        Args:
            row: of the dataset.
            server: who writes.
            tell: whether the manager gets what the tool said of its calls, as in a run of verl.
        """
        output = await ToolAgentLoop(server_manager=server, **self.parts).run({}, **row)
        response, prompt = torch.tensor([output.response_ids]), torch.tensor([output.prompt_ids])
        mask = torch.ones(1, prompt.shape[1] + response.shape[1], dtype=torch.long)
        columns = {name: row[name] for name in ("data_source", "reward_model", "extra_info")}
        columns["extra_info"] = dict(columns["extra_info"])
        if tell:
            columns["tool_extra_fields"] = output.extra_fields
        data = DataProto.from_dict(
            tensors={"responses": response, "prompts": prompt, "attention_mask": mask},
            non_tensors={name: np.array([value], dtype=object) for name, value in columns.items()},
        )
        score = (await self.manager.run_single(data))["reward_score"]
        text = self.tokenizer.decode(output.response_ids, skip_special_tokens=True)
        return self.tokenizer.decode(output.prompt_ids), text, score


async def greedy_episodes(n: int = 12) -> None:
    verl = Verl(WORK / "eyes")
    assert len(verl.dataset) == 100, len(verl.dataset)
    stock = RLHFDataset([str(PARQUET)], verl.tokenizer, verl.config.data, verl.processor)
    assert len(stock) == 100, len(stock)
    report("`RLHFDataset` on our export", "100 of 100 rows, also with its own class and prompts")
    eyes, same, paid = Eyes(WORK / "eyes", verl.processor), 0, 0
    for row, local in zip(
        map(verl.dataset.__getitem__, range(n)), read_jsonl(WORK / "local.jsonl")
    ):
        assert row["extra_info"]["question"] == local.sample["question"]
        prompt, text, score = await verl.play(row, eyes)
        turns = [turn.text for turn in local.turns]
        same += text == decoded(
            templates()["tiny-eyes"], turns, [[{"type": "image"}]] * (len(turns) - 1)
        )
        paid += score == (2.0 if local.correct else 0.0)
        assert prompt.count("image_zoom_in_tool") == 1, prompt
    assert same == paid == n, (same, paid, n)
    report(
        "`ToolAgentLoop`, `NaiveRewardManager`, tiny-eyes greedy",
        f"{same} of {n} episodes and {paid} of {n} rewards are the local ones, turn by turn, with crops",
    )


async def scripted_episodes() -> None:
    models = {
        "tiny-eyes": ("eyes", None),
        "Qwen3-VL": ("Qwen3-VL-2B", templates()["Qwen3-VL"]),
        "DeepEyes": ("Qwen2.5-VL-3B", templates()["DeepEyes"]),
        "Qwen2.5-VL": ("Qwen2.5-VL-3B", templates()["Qwen2.5-VL"]),
    }
    frames = {"Qwen3-VL": "0-1000 of that image", "DeepEyes": "in pixels of that image"}
    for name, (folder, template) in models.items():
        verl = Verl(WORK / folder, template)
        rewards = []
        for episode, (turns, observations, score) in EPISODES.items():
            for tell in (True, False):
                row = verl.dataset[0]
                truth = row["reward_model"]["ground_truth"]
                turns = with_truth(turns, truth)
                prompt, text, paid = await verl.play(row, Script(verl.tokenizer, turns), tell)
                assert abs(paid - score) < 1e-9, (name, episode, tell, paid, score, text)
                if not {EMPTY, NO_SUCH} & set(map(str, observations)):  # our tool's own words
                    ours = decoded(templates()[name], turns, observations)
                    assert text == ours, (name, episode, text, ours)
            rewards.append(f"{paid:g}")
        if name in frames:
            schemas = re.findall(r'"name": "image_zoom_in_tool", "description"', prompt)
            assert len(schemas) == 1 and prompt.count(frames[name]) == 1, prompt
        report(f"rewards of 7 scripted episodes, template of {name}", ", ".join(rewards))
    report("the tool's schema in the prompt", "once, in the model's frame")


def launch() -> None:
    """The command of docs/engines.md, on this machine: how far it comes."""
    text = (ROOT / "docs" / "engines.md").read_text(encoding="utf-8")
    command = re.search(r"```\n(REALWORLD=.*?)```", text, re.DOTALL)[1]
    command = command.replace("Qwen/Qwen2.5-VL-7B-Instruct", str(WORK / "Qwen2.5-VL-3B"))
    for name in ("selected.parquet", "held-out.parquet"):
        command = command.replace(name, str(PARQUET))
    # A GPU's worth of workers on no GPU: verl says so itself, once its actors are placed.
    command = command.rstrip() + (
        " trainer.n_gpus_per_node=1 +ray_kwargs.ray_init.include_dashboard=false"
        " ray_kwargs.ray_init.num_cpus=40 trainer.logger=[console] data.filter_overlong_prompts_workers=1\n"
    )
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, timeout=500, env=dict(os.environ)
    )
    output = done.stdout + done.stderr
    (WORK / "verl_launch.txt").write_text(output, encoding="utf-8")
    errors = [
        line for line in output.splitlines() if re.search(r"^\S*(Error|Exception)\b.*:", line)
    ]
    assert done.returncode and "Total available GPUs 0" in output, output[-2000:]
    report(
        "a full run (`main_ppo`, the command below)",
        f"stops for want of a GPU: `{errors[-1].strip()}`",
    )


if __name__ == "__main__":
    report("versions", versions("verl", "transformers", "torch", "ray", "tensordict", "datasets"))
    asyncio.run(greedy_episodes())
    asyncio.run(scripted_episodes())
    launch()
