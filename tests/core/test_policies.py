"""policies.py: what a policy may write, and that its batch does not matter."""

import pytest
import torch

from deepeyes_lite import prompts
from deepeyes_lite.models import TINY_EYES, load
from deepeyes_lite.policies import LocalPolicy, Policy
from deepeyes_lite.rollout import rollout
from deepeyes_lite.trajectories import Trajectory

CALL = "<think>?</think>" + prompts.tool_call({"bbox_2d": [100, 200, 300, 400]})


@pytest.fixture(scope="module")
def eyes(random_eyes):
    return load(random_eyes)


def opened(policy, rows):
    episodes = []
    for row in rows:
        ids = policy.prompt_ids(row["question"], row["image"])
        sample = {"id": row["id"]}
        episodes.append(Trajectory(sample=sample, images=[row["image"]], prompt_ids=ids))
    return episodes


def zoomed(policy, trajectory):
    """The conversation after one call and its crop."""
    crop = trajectory.images[0].crop((0, 0, 90, 90))
    reply = policy.tokenizer(CALL + prompts.TURN_END, add_special_tokens=False)["input_ids"]
    trajectory.images.append(crop)
    trajectory.completion_ids = reply + policy.observation_ids([[{"type": "image", "image": crop}]])
    return trajectory


@pytest.fixture
def preferring(eyes):
    """A function that makes the model prefer certain tokens, whatever it sees."""
    model, processor = eyes
    handles = []

    def prefer(*tokens, by=100.0):
        ids = processor.tokenizer.convert_tokens_to_ids(list(tokens))

        def hook(module, args, logits):
            logits = logits.clone()
            logits[..., ids] += by
            return logits

        handles.append(model.lm_head.register_forward_hook(hook))

    yield prefer
    for handle in handles:
        handle.remove()


def tokens_of(policy, replies):
    return set(policy.tokenizer.convert_ids_to_tokens([i for ids in replies for i in ids]))


def test_a_policy_never_writes_a_reserved_token(eyes, samples, preferring):
    preferring(*prompts.RESERVED_TOKENS)
    for temperature in (0.0, 1.0):
        policy = LocalPolicy(*eyes, temperature=temperature)
        written = tokens_of(policy, policy.reply(opened(policy, samples)))
        assert written and not written & set(prompts.RESERVED_TOKENS)


def test_off_takes_the_tool_section_out_of_the_prompt_and_nothing_else(eyes, samples, preferring):
    rows, policy = list(samples)[:2], LocalPolicy(*eyes)
    preferring("<tool_call>")
    for on, off in zip(*(rollout(rows, policy, t, progress=False) for t in ("on", "off"))):
        with_tool, without = (policy.tokenizer.decode(t.prompt_ids) for t in (on, off))
        assert with_tool == "<|im_start|>system\nTools: image_zoom_in_tool.<|im_end|>\n" + without
        assert "<tool_call>" in off.turns[0].text  # nothing is suppressed
        assert len(off.turns) == 1 and not off.called
    assert policy.tools  # the policy itself is as it was


def test_a_forced_reply_begins_as_a_direct_answer_that_the_model_did_not_write(eyes, samples):
    rows, policy = list(samples)[:3], LocalPolicy(*eyes, temperature=0.0)
    prefix = policy.tokenizer(prompts.DIRECT)["input_ids"]
    for t in rollout(rows, policy, tool="forced", progress=False):
        assert t.turns[0].text.startswith(prompts.DIRECT)
        assert t.completion_ids[: len(prefix)] == prefix
        assert t.loss_mask == [0] * len(prefix) + [1] * (len(t.completion_ids) - len(prefix))
        assert prompts.TURN_END.join(turn.text for turn in t.turns) in policy.tokenizer.decode(
            t.completion_ids
        )


def test_with_calls_suppressed_no_call_is_opened(eyes, samples, preferring):
    policy = LocalPolicy(*eyes)
    preferring("<tool_call>")
    for allowed in (True, False):
        replies = policy.reply(opened(policy, list(samples)[:2]), allow_calls=allowed)
        assert ("<tool_call>" in tokens_of(policy, replies)) == allowed


def test_a_reply_ends_with_its_end_of_turn_or_at_the_limit(eyes, samples, preferring):
    policy = LocalPolicy(*eyes)
    rows = list(samples)[:3]
    assert all(len(ids) <= TINY_EYES.max_new_tokens for ids in policy.reply(opened(policy, rows)))
    preferring(prompts.TURN_END)
    assert policy.reply(opened(policy, rows)) == [[policy.tokenizer.eos_token_id]] * 3


def test_the_batch_does_not_matter_at_temperature_0_and_sampling_follows_the_seed(eyes, samples):
    policy = LocalPolicy(*eyes, temperature=0.0)
    conversations = opened(policy, samples)
    conversations[1::3] = [zoomed(policy, t) for t in conversations[1::3]]
    together = policy.reply(conversations)
    assert len({tuple(ids) for ids in together}) > 1
    assert together == [ids for t in conversations for ids in policy.reply([t])]
    sampling, replies = LocalPolicy(*eyes), []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        replies.append(sampling.reply(conversations[:2]))
    assert replies[0] == replies[1] != replies[2]


def test_calls_and_text_of_a_reply(processor):
    box = [{"name": prompts.ZOOM, "arguments": {"bbox_2d": [100, 200, 300, 400]}}]
    replies = {CALL: box, CALL + prompts.tool_call({}): [{**box[0], "arguments": {}}]}
    replies |= {prompts.answer("?", "K"): [], "": [], CALL + "<answer>K</answer>": []}
    replies |= {"<tool_call>{": [{"error": "the call is not closed"}]}
    deep = "<tool_call>" + "[" * 50_000 + "</tool_call>"
    replies |= {deep: [{"error": "the call is no JSON"}]}
    trajectory, policy = Trajectory(sample={}), Policy(processor)
    for reply, calls in replies.items():
        ids = processor.tokenizer(reply + prompts.TURN_END, add_special_tokens=False)["input_ids"]
        assert policy.calls(trajectory, ids) == calls
        assert Policy(processor, tools=False).calls(trajectory, ids) == []
        assert policy.text(ids) == policy.text(ids[:-1]) == reply
    with pytest.raises(ValueError, match="0 images, but 1 placeholders"):
        policy.observation_ids([[{"type": "text", "text": "<|image_pad|>"}]])


def test_episodes_of_random_weights_are_complete(eyes, samples, preferring):
    """Every mask, turn and image fits, whatever the model writes."""
    model, processor = eyes
    preferring("<tool_call>", prompts.TURN_END, by=2.0)
    for tool in ("on", "off", "blank"):
        for t in rollout(samples, LocalPolicy(model, processor), tool=tool, progress=False):
            assert len(t.loss_mask) == len(t.completion_ids) <= TINY_EYES.max_completion_length
            assert t.completion_ids.count(processor.image_token_id) == 36 * (len(t.images) - 1)
            assert 1 <= len(t.turns) <= 7
            assert len(t.images) == 1 + len(t.boxes_px)
