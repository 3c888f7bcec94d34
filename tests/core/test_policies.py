"""policies.py: what a policy may write, and that its batch does not matter."""

import pytest
import torch
from PIL import Image

from deepeyes_lite import prompts
from deepeyes_lite.models import LORA_TARGETS, TINY_EYES, load
from deepeyes_lite.policies import LocalPolicy, Policy, ScriptedPolicy
from deepeyes_lite.rollout import rollout
from deepeyes_lite.trajectories import Trajectory

CALL = "<think>?</think>" + prompts.tool_call({"bbox_2d": [100, 200, 300, 400]})


@pytest.fixture(scope="module")
def eyes(random_eyes):
    return load(random_eyes)


def opened(policy, rows):
    return [
        Trajectory(
            sample={"id": row["id"]},
            images=[row["image"]],
            prompt_ids=policy.prompt_ids(row["question"], row["image"]),
        )
        for row in rows
    ]


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


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_policy_never_writes_a_reserved_token(eyes, samples, preferring, temperature):
    policy = LocalPolicy(*eyes, temperature=temperature)
    preferring(*prompts.RESERVED_TOKENS)
    replies = policy.reply(opened(policy, samples))
    written = tokens_of(policy, replies)
    assert written and not written & set(prompts.RESERVED_TOKENS)


@pytest.mark.parametrize("allowed", [True, False])
def test_with_the_tool_off_no_call_is_opened(eyes, samples, preferring, allowed):
    policy = LocalPolicy(*eyes)
    preferring("<tool_call>")
    replies = policy.reply(opened(policy, list(samples)[:2]), allow_calls=allowed)
    assert ("<tool_call>" in tokens_of(policy, replies)) == allowed


def test_a_reply_ends_with_its_end_of_turn_or_at_the_limit(eyes, samples, preferring):
    policy = LocalPolicy(*eyes)
    rows = list(samples)[:3]
    assert all(len(ids) <= TINY_EYES.max_new_tokens for ids in policy.reply(opened(policy, rows)))
    preferring(prompts.TURN_END)
    assert policy.reply(opened(policy, rows)) == [[policy.tokenizer.eos_token_id]] * 3


def test_the_batch_does_not_matter_at_temperature_0(eyes, samples):
    policy = LocalPolicy(*eyes, temperature=0.0)
    conversations = opened(policy, samples)
    conversations[1::3] = [zoomed(policy, t) for t in conversations[1::3]]
    together = policy.reply(conversations)
    assert len({tuple(ids) for ids in together}) > 1
    assert together == [ids for t in conversations for ids in policy.reply([t])]
    assert together == policy.reply(conversations)


def test_sampling_follows_the_seed(eyes, samples):
    policy = LocalPolicy(*eyes)
    replies = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        replies.append(policy.reply(opened(policy, list(samples)[:2])))
    assert replies[0] == replies[1] != replies[2]


def test_a_fresh_adapter_changes_nothing_and_needs_no_other_code(random_eyes, eyes, samples):
    from peft import LoraConfig, get_peft_model

    model, processor = load(random_eyes)
    wrapped = get_peft_model(model, LoraConfig(r=4, target_modules=LORA_TARGETS))
    policies = [LocalPolicy(m, processor, temperature=0.0) for m in (eyes[0], wrapped)]
    plain, adapted = (policy.reply(opened(policy, list(samples)[:3])) for policy in policies)
    assert plain == adapted


def test_prompt_ids_are_those_of_the_processor(processor, samples):
    for tools in (True, False):
        policy = Policy(processor, tools=tools)
        for size in [(384, 384), (300, 170), (60, 61)]:
            image = samples[0]["image"].resize(size)
            text = processor.apply_chat_template(
                prompts.user_message("What?"),
                tools=policy.tools,
                add_generation_prompt=True,
                tokenize=False,
            )
            expected = processor(text=[text], images=[image])["input_ids"][0]
            assert policy.prompt_ids("What?", image) == list(expected)


def test_an_observation_is_a_user_s_turn_and_the_opening_of_a_reply(processor):
    policy = Policy(processor)
    crop = Image.new("RGB", (60, 60))
    image = [{"type": "image", "image": crop}]
    text = processor.tokenizer.decode(policy.observation_ids([image, "{'error': 'no'}"]))
    assert text == (
        "\n<|im_start|>user\n<tool_response><|vision_start|>"
        + "<|image_pad|>" * 36
        + "<|vision_end|></tool_response><|im_end|>\n"
        "<|im_start|>user\n<tool_response>{'error': 'no'}</tool_response><|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_a_placeholder_without_an_image_is_refused(processor):
    with pytest.raises(ValueError, match="0 images, but 1 placeholders"):
        Policy(processor).observation_ids(["{'error': 'Tool <|image_pad|> not found.'}"])


@pytest.mark.parametrize(
    ("reply", "calls"),
    [
        (CALL, [{"name": prompts.ZOOM, "arguments": {"bbox_2d": [100, 200, 300, 400]}}]),
        (CALL + prompts.tool_call({}), 2),
        (prompts.answer("?", "K"), []),
        ("<tool_call>{nonsense</tool_call>", []),
        ("<tool_call>{", []),
        ("<tool_call>" + "[" * 5000 + "]" * 5000 + "</tool_call>", []),
        ("", []),
    ],
)
def test_calls_of_a_reply(processor, reply, calls):
    trajectory = Trajectory(sample={})
    ids = processor.tokenizer(reply + prompts.TURN_END, add_special_tokens=False)["input_ids"]
    found = Policy(processor).calls(trajectory, ids)
    assert len(found) == calls if isinstance(calls, int) else found == calls
    assert Policy(processor, tools=False).calls(trajectory, ids) == []


def test_text_is_what_the_model_wrote(processor):
    policy = Policy(processor)
    ids = processor.tokenizer(CALL + prompts.TURN_END, add_special_tokens=False)["input_ids"]
    assert policy.text(ids) == policy.text(ids[:-1]) == CALL


def test_a_script_may_differ_from_sample_to_sample(processor, samples):
    rows = list(samples)[:2]
    scripts = {
        rows[0]["id"]: [prompts.answer("?", "A")],
        rows[1]["id"]: [CALL, prompts.answer("?", "B")],
    }
    episodes = rollout(rows, ScriptedPolicy(processor, scripts), progress=False)
    assert [t.answer for t in episodes] == ["A", "B"]
    assert [len(t.images) for t in episodes] == [1, 2]


def test_episodes_of_random_weights_are_whole(eyes, samples, preferring):
    """Every mask, turn and image fits, whatever the model writes."""
    model, processor = eyes
    preferring("<tool_call>", prompts.TURN_END, by=2.0)
    for tool in ("on", "off", "blank"):
        for t in rollout(samples, LocalPolicy(model, processor), tool=tool, progress=False):
            assert len(t.loss_mask) == len(t.completion_ids) <= TINY_EYES.max_completion_length
            assert t.completion_ids.count(processor.image_token_id) == 36 * (len(t.images) - 1)
            assert 1 <= len(t.turns) <= 7
            assert len(t.images) == 1 + len(t.boxes_px)
