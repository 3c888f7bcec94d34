"""The batched iMCoT loop over any policy: reply, call, crop, append, until an answer stands there.

The same episode as TRL's ``_tool_call_loop`` with `tools.ZoomTool`, down to the token ids
and the loss mask: nothing is ever rendered or tokenised anew, and an observation that would exceed the
budget is dropped and ends the episode. So do an answer, a reply without a call, and a call after the
last one that is answered. ``docs/deviations.md`` holds the loop against DeepEyes'.
"""

from collections.abc import Iterable

import torch
from tqdm.auto import tqdm

from deepeyes_lite import prompts
from deepeyes_lite.policies import Policy
from deepeyes_lite.tools import MAX_CALLS, ZoomTool, answer_call, images_and_texts
from deepeyes_lite.trajectories import Trajectory, Turn
from deepeyes_lite.verifiers import Judge, check_answer, well_formed

TOOLS = ("on", "off", "blank", "other", "suppressed", "forced")


def rollout(
    samples: Iterable[dict],
    policy: Policy,
    tool: str = "on",
    seed: int = 0,
    batch_size: int | None = None,
    max_calls: int = MAX_CALLS,
    max_completion_length: int | None = None,
    progress: bool = True,
    judge: Judge | None = None,
    title: str = "",
) -> list[Trajectory]:
    """One episode per sample.

    Args:
        samples: rows of a data set in our schema (``data.FEATURES``).
        policy: who replies.
        tool: "on", or a control. "off": the prompt offers no tool, which shows what the policy can do
            without. "blank": every crop is grey. "other": every crop is cut out of the next sample's image.
            "suppressed": the tool is offered, but no call can be opened, which shows a habit; one who has
            announced a call is left without an answer. "forced": the reply begins with `prompts.DIRECT`.
        seed: of the sampling.
        batch_size: episodes that run side by side; None for the policy's own.
        max_calls: greatest number of turns with a call.
        max_completion_length: tokens after the prompt, observations included; None for the policy's own. A
            served model's context bounds its own.
        progress: whether to show a bar.
        judge: asked where the rules of `verifiers.check_answer` cannot tell.
        title: of the bar, where one would not know it from another.

    Raises:
        ValueError: for an unknown ``tool``, "other" where there is one sample only, or "suppressed" or
            "forced" for a policy that does not write token ids.
    """
    if tool not in TOOLS:
        raise ValueError(f"tool must be one of {', '.join(TOOLS)}, got {tool!r}")
    if tool in ("suppressed", "forced") and not policy.writes_ids:
        raise ValueError(
            f"a served model's tokens can be neither forbidden nor forced, so tool {tool!r} needs a model "
            "on this machine; ask with tool 'off'"
        )
    policy = policy.without_tools() if tool == "off" else policy
    forced = policy.tokenizer(prompts.DIRECT)["input_ids"] if tool == "forced" else []
    torch.manual_seed(seed)
    batch_size = batch_size or policy.batch_size
    budget = max_completion_length or policy.max_completion_length
    samples = list(samples) if not hasattr(samples, "__getitem__") else samples
    if tool == "other" and len(samples) == 1:
        raise ValueError("tool 'other' crops the next sample's image, and there is one sample only")
    trajectories: list[Trajectory] = []
    bar = tqdm(total=len(samples), desc=title or f"rollout, tool {tool}", disable=not progress)
    for start in range(0, len(samples), batch_size):
        rows = [samples[i] for i in range(start, min(start + batch_size, len(samples)))]
        batch = [_open(row, policy, forced) for row in rows]
        images = [row["image"] for row in rows]
        if tool == "other":
            after = samples[(start + len(rows)) % len(samples)]["image"]
            sizes = [image.size for image in images]  # boxes are in pixels of one's own image
            images = [image.resize(size) for image, size in zip([*images[1:], after], sizes)]
        zooms = [policy.tool_class(image, max_calls) for image in images]
        for zoom in zooms:
            zoom.blank = tool == "blank"
        active = list(range(len(batch)))
        for turns_left in range(max_calls, -1, -1):
            replies = policy.reply([batch[i] for i in active], allow_calls=tool != "suppressed")
            active = [
                i
                for i, reply in zip(active, replies)
                if _advance(batch[i], zooms[i], reply, policy, budget, turns_left > 0)
            ]
            if not active:
                break
        for trajectory in batch:
            _close(trajectory, policy, judge)
        trajectories += batch
        bar.update(len(batch))
    bar.close()
    return trajectories


def _open(row: dict, policy: Policy, forced: list[int]) -> Trajectory:
    sample = {key: value for key, value in row.items() if key != "image"}
    prompt_ids = policy.prompt_ids(row["question"], row["image"])
    beginning = {"completion_ids": forced, "loss_mask": [0] * len(forced)}
    return Trajectory(sample=sample, images=[row["image"]], prompt_ids=prompt_ids, **beginning)


def _advance(
    trajectory: Trajectory,
    zoom: ZoomTool,
    reply: list[int] | Turn,
    policy: Policy,
    budget: int,
    may_go_on: bool,
) -> bool:
    """Append a reply and, if it called, the observation; whether the episode goes on."""
    calls = policy.calls(trajectory, reply)
    if isinstance(reply, Turn):  # a served model has no token ids
        turn = reply
    else:
        ids = reply[: budget - len(trajectory.completion_ids)]
        trajectory.completion_ids = trajectory.completion_ids + ids
        trajectory.loss_mask = trajectory.loss_mask + [1] * len(ids)  # as long as completion_ids
        # The first turn is all that stands there so far: its beginning may have been forced.
        turn = Turn(policy.text(ids if trajectory.turns else trajectory.completion_ids))
    trajectory.turns.append(turn)
    if not calls or not may_go_on:
        return False
    answered = len(zoom.boxes_px)
    contents = [answer_call(zoom, call) for call in calls]
    observation = policy.observation_ids(contents)
    if len(trajectory.completion_ids) + len(observation) > budget:
        return False
    turn.boxes_px, turn.crops_px = zoom.boxes_px[answered:], zoom.crops_px[answered:]
    crops, turn.errors = images_and_texts(contents)
    trajectory.images += crops
    trajectory.completion_ids = trajectory.completion_ids + observation
    trajectory.loss_mask = trajectory.loss_mask + [0] * len(observation)
    return True


def _close(trajectory: Trajectory, policy: Policy, judge: Judge | None) -> None:
    """Read the answer and judge it."""
    texts = [turn.text for turn in trajectory.turns]
    trajectory.answer = policy.read_answer(trajectory.turns[-1])
    trajectory.correct = check_answer(trajectory.answer, trajectory.sample, judge)
    trajectory.well_formed = well_formed(texts)
