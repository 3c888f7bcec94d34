"""models.py: Qwen2.5-VL and Qwen3-VL by the same code as tiny-eyes.

Random weights of the published shapes, with layers and widths cut down, for a CPU has to bear them.
"""

import json
import os
from dataclasses import replace

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration, Qwen2VLProcessor
from trl.chat_template_utils import is_chat_template_prefix_preserving, supports_tool_calling

from deepeyes_lite import doctor, models, prompts, training
from deepeyes_lite.fast import CachedImageProcessor
from deepeyes_lite.models import LORA_TARGETS, QWEN2_5_VL, SPECS, load, load_processor, spec_of
from deepeyes_lite.policies import LocalPolicy, OracleZoomPolicy, Policy, ScriptedPolicy
from deepeyes_lite.rollout import rollout
from deepeyes_lite.tinyworld.dataset import training_questions
from deepeyes_lite.tools import ZOOM
from deepeyes_lite.training import (
    RunConfig,
    build_trainer,
    load_trained,
    read_history,
    train,
)
from shapes import SHAPES, config_of, tokenizer_of, type_of, write_random
from trl_episode import trl_episode

NAMES = {
    "7B": "Qwen/Qwen2.5-VL-7B-Instruct",
    "3B": "Qwen/Qwen2.5-VL-3B-Instruct",
    "4B": "Qwen/Qwen3-VL-4B-Instruct",
}
CALL = "<think>?</think>\n<tool_call>\n" + json.dumps(
    {"name": ZOOM, "arguments": {"bbox_2d": [20, 30, 200, 190], "label": "red circle"}}
)
CALL += "\n</tool_call>"
ANSWER = "<think>I can read it.</think>\n<answer>K</answer>"


@pytest.fixture(scope="session", params=NAMES)
def folder(request, tmp_path_factory):
    return write_random(
        NAMES[request.param], tmp_path_factory.mktemp(request.param), layers=2, narrow=True
    )


@pytest.fixture(scope="session")
def loaded(folder):
    return load(folder, precision="fp32", max_pixels=100_000)


def config_for(folder, **changes):
    small = {
        "steps": 2,
        "prompts_per_step": 1,
        "num_generations": 2,
        "save_steps": 1,
        "max_new_tokens": 6,
    }
    small |= {
        "max_pixels": 66_000,
        "max_calls": 2,
        "micro_batch": 1,
        "gradient_checkpointing": True,
    }
    return RunConfig(model=str(folder), **{**small, **changes})


@pytest.mark.parametrize("name", SHAPES)
def test_head_sizes_and_mrope_are_the_published_ones_when_cut_down(name):
    full, cut = config_of(name), config_of(name, layers=2, narrow=True)
    for config in (full, cut):
        text, eye = config.text_config, config.vision_config
        head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        assert head == 128 and sum(text.rope_parameters["mrope_section"]) == 64
        assert eye.hidden_size // eye.num_heads in (64, 72, 80)
        assert eye.out_hidden_size == text.hidden_size
    assert full.vision_config.patch_size == cut.vision_config.patch_size
    assert full.tie_word_embeddings == cut.tie_word_embeddings == (name[-11] in "234")
    assert config_of(name, layers=1).text_config.hidden_size == full.text_config.hidden_size


@pytest.mark.parametrize(("name", "parameters"), [("3B", 3.75e9), ("7B", 8.29e9), ("4B", 4.44e9)])
def test_the_full_shapes_have_the_published_number_of_weights(name, parameters):
    from transformers import AutoModelForImageTextToText

    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config_of(NAMES[name]))
    assert model.num_parameters() == pytest.approx(parameters, rel=0.01)


# --- template -----------------------------------------------------------------------------------

CONVERSATION = [
    *prompts.user_message("What letter is on the red circle?", prompts.FORMAT),
    {
        "role": "assistant",
        "content": "<think>I need to zoom in.</think>",
        "tool_calls": [
            {"type": "function", "function": {"name": ZOOM, "arguments": {"bbox_2d": [1, 2, 3, 4]}}}
        ],
    },
    {"role": "tool", "content": [{"type": "image"}]},
    {"role": "assistant", "content": "<think>?</think>"},
    {"role": "tool", "content": [{"type": "text", "text": "{'error': 'no'}"}]},
    {"role": "assistant", "content": ANSWER},
    {"role": "user", "content": "Sure?"},
    {"role": "assistant", "content": "Yes."},
]


@pytest.mark.parametrize("tools", [True, False])
@pytest.mark.parametrize("system", [True, False])
def test_a_rendered_conversation_is_a_prefix_of_its_continuation(loaded, tools, system):
    _, processor = loaded

    def render(messages, prompt=False):
        return processor.apply_chat_template(
            messages,
            tools=Policy(processor).tools if tools else None,
            add_generation_prompt=prompt,
            tokenize=False,
        )

    opening = [{"role": "system", "content": "You are an owl."}] if system else []
    turns = [*opening, *CONVERSATION]
    texts = [render(turns[:n]) for n in range(len(opening) + 1, len(turns) + 1)]
    for shorter, longer in zip(texts, texts[1:]):
        assert longer.startswith(shorter) and longer != shorter
    for n, message in enumerate(CONVERSATION):
        if message["role"] == "assistant":
            assert texts[n].startswith(render(turns[: n + len(opening)], prompt=True))
    assert ("# Tools" in texts[-1]) == tools
    assert ("an owl" in texts[-1]) == system
    assert texts[-1].count(prompts.IMAGE) == 2


def test_trl_takes_the_templates(loaded):
    _, processor = loaded
    assert supports_tool_calling(processor)
    assert is_chat_template_prefix_preserving(processor)


def test_the_schema_requires_the_box_that_it_has(loaded):
    _, processor = loaded
    policy = Policy(processor)
    text = processor.tokenizer.decode(policy.prompt_ids("What?", Image.new("RGB", (300, 200))))
    line = next(line for line in text.splitlines() if ZOOM in line and "parameters" in line)
    parameters = json.loads(line)["function"]["parameters"]
    assert parameters["required"] == ["bbox_2d"]
    said = parameters["properties"]["bbox_2d"]["description"]
    assert ("pixels of that image" in said) == (policy.spec.frame == "view")
    assert ("0-1000" in said) == (policy.spec.frame == "1000")
    assert text.count("Think first, call **image_zoom_in_tool**") == 1
    plain = Policy(processor, tools=False).prompt_ids("What?", Image.new("RGB", (300, 200)))
    assert ZOOM not in processor.tokenizer.decode(plain)


@pytest.mark.parametrize("size", [(384, 384), (301, 173), (60, 61)])
def test_prompt_ids_are_those_of_the_processor(loaded, size):
    _, processor = loaded
    for tools in (True, False):
        policy = Policy(processor, tools=tools)
        image = Image.new("RGB", size)
        text = processor.apply_chat_template(
            prompts.user_message("What?", policy.suffix),
            tools=policy.tools,
            add_generation_prompt=True,
            tokenize=False,
        )
        expected = processor(text=[text], images=[image])["input_ids"][0]
        assert policy.prompt_ids("What?", image) == list(expected)


# --- rollout ------------------------------------------------------------------------------------


def test_a_call_in_the_model_s_own_writing_is_read(loaded, samples):
    _, processor = loaded
    ids = processor.tokenizer(CALL + prompts.TURN_END, add_special_tokens=False)["input_ids"]
    (episode,) = rollout([samples[0]], ScriptedPolicy(processor, [CALL, ANSWER]), progress=False)
    assert Policy(processor).calls(episode, ids)[0]["arguments"]["bbox_2d"] == [20, 30, 200, 190]
    assert episode.answer == "K" and episode.well_formed and len(episode.images) == 2
    assert sum(episode.loss_mask) < len(episode.loss_mask)
    pads = [*episode.prompt_ids, *episode.completion_ids].count(processor.image_token_id)
    grids = processor.image_processor(images=episode.images, return_tensors="pt")["image_grid_thw"]
    assert pads == int(grids.prod(-1).sum()) // 4


def test_rollouts_of_random_weights_do_not_depend_on_their_batch(loaded, samples):
    model, processor = loaded
    policy = LocalPolicy(model, processor, temperature=0.0, max_new_tokens=5)
    rows = [
        {**samples[i], "image": samples[i]["image"].resize(size)}
        for i, size in enumerate([(384, 384), (200, 301), (431, 120)])
    ]
    together = rollout(rows, policy, progress=False)
    alone = [rollout([row], policy, progress=False)[0] for row in rows]
    assert [t.completion_ids for t in together] == [t.completion_ids for t in alone]
    shown = rollout(rows[:1], OracleZoomPolicy(policy), progress=False)[0]
    assert len(shown.images) == 2 and shown.best_iou > 0.5


def test_every_image_has_its_own_features(loaded):
    """Remembered features are those that the tower computes for the image alone."""
    from deepeyes_lite.fast import cache_vision, vision_tower

    model, processor = loaded
    model.requires_grad_(False)
    visual = vision_tower(model)
    images = [Image.effect_noise(size, 90).convert("RGB") for size in ((300, 200), (90, 91))]
    pixels = processor.image_processor(images=images, return_tensors="pt")
    with torch.no_grad():
        plain = type(visual).forward(visual, pixels["pixel_values"], pixels["image_grid_thw"])
        cache_vision(model)
        for _ in range(2):
            ours = visual(pixels["pixel_values"], grid_thw=pixels["image_grid_thw"])
            assert torch.allclose(ours.pooler_output, plain.pooler_output, atol=1e-4)


# --- training -----------------------------------------------------------------------------------


def by_turns(outcomes, **_):
    """Random weights never answer: every second rollout of a group gets the reward."""
    return [float(i % 2) for i in range(len(outcomes))]


def run(config, out):
    return train(config, out, training_questions(config), rewards={by_turns: 1.0})


@pytest.fixture
def varied(monkeypatch):
    monkeypatch.setattr(doctor, "precision", lambda: ("fp32", "a test"))
    return monkeypatch


def test_the_loop_and_trl_make_the_same_episode(folder, samples, varied, tmp_path):
    config = config_for(folder, max_new_tokens=90)
    trainer = build_trainer(config, tmp_path, training_questions(config))
    processor = trainer.processing_class
    for script in ([CALL, ANSWER], [ANSWER], [CALL, CALL, ANSWER]):
        (ours,) = rollout([samples[0]], ScriptedPolicy(processor, script), progress=False)
        row = {**samples[0], "question": samples[0]["question"]}
        theirs = trl_episode(trainer, row, script, varied, suffix=spec_of(processor).suffix[True])
        assert ours.prompt_ids == theirs["prompt_ids"]
        assert ours.completion_ids == theirs["completion_ids"]
        assert ours.loss_mask == theirs["loss_mask"]
        assert len(ours.images) == theirs["images"]


def test_a_run_trains_the_language_model_alone_and_goes_on_after_a_kill(folder, varied, tmp_path):
    config = config_for(folder)
    whole = run(config, tmp_path / "whole")
    adapter = load_file(whole / "adapter" / "adapter_model.safetensors")
    assert len(adapter) == 2 * 2 * 7 and all("language_model" in name for name in adapter)
    assert max(v.abs().max() for n, v in adapter.items() if "lora_B" in n) > 0
    rows = read_history(whole / "history.csv")
    assert [row["step"] for row in rows] == [1, 2] and rows[0]["grad_norm"] > 0

    class Killed(BaseException):
        pass

    def kill(self, args, state, control, **kwargs):
        if state.global_step == 2:
            raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training.MarkComplete, "on_step_end", kill)
        with pytest.raises(Killed):
            run(config, tmp_path / "killed")
    run(config, tmp_path / "killed")
    again = load_file(tmp_path / "killed" / "adapter" / "adapter_model.safetensors")
    assert all(torch.allclose(again[n], adapter[n], rtol=0, atol=1e-6) for n in adapter)

    model, processor = load_trained(whole)
    plain = load(folder, precision="fp32")[0].state_dict()
    for name, value in model.state_dict().items():
        adapted = "language_model" in name and "_proj" in name and "bias" not in name
        assert torch.equal(value, plain[name]) != adapted, name
    assert processor.image_processor.size["longest_edge"] == 66_000


def test_a_step_runs_in_bf16(folder, monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "precision", lambda: ("bf16", "a test"))
    config = config_for(folder)
    questions = training_questions(config)
    trainer = build_trainer(config, tmp_path, questions, rewards={by_turns: 1.0})
    base = trainer.model.get_base_model()
    assert base.dtype == torch.bfloat16
    trainer.train()
    row = trainer.state.log_history[1]
    assert row["grad_norm"] > 0 and base.dtype == torch.bfloat16
    weights = [p for n, p in trainer.model.named_parameters() if "lora_B" in n]
    assert all(w.dtype == torch.float32 for w in weights) and any(
        w.abs().max() > 0 for w in weights
    )


def test_bf16_rolls_out_what_it_is_told_to(folder, samples):
    model, processor = load(folder, precision="bf16", max_pixels=66_000)
    assert model.dtype == torch.bfloat16
    policy = LocalPolicy(model, processor, max_new_tokens=4)
    (episode,) = rollout([samples[0]], policy, progress=False)
    assert 1 <= len(episode.completion_ids) <= 4


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.skipif("EXACT" not in os.environ, reason="many minutes; EXACT=1 runs it")
@pytest.mark.parametrize("name", NAMES)
def test_one_layer_of_the_exact_width_goes_all_the_way(name, samples, varied, tmp_path):
    """Nothing is narrow but the vocabulary: crop, step, save, load again, another step."""
    eye, (*text, _), tied = SHAPES[NAMES[name]]
    vocabulary = len(tokenizer_of(type_of(NAMES[name])))
    varied.setitem(SHAPES, NAMES[name], (eye, (*text, vocabulary), tied))
    folder = write_random(NAMES[name], tmp_path / "model", layers=1)
    width = json.loads((folder / "config.json").read_text())["text_config"]["hidden_size"]
    assert width == text[0]
    processor = load_processor(folder, 66_000)
    (episode,) = rollout([samples[0]], ScriptedPolicy(processor, [CALL, ANSWER]), progress=False)
    assert len(episode.images) == 2
    out = train(config_for(folder, steps=1), tmp_path / "run")
    assert read_history(out / "history.csv")[0]["grad_norm"] > 0
    config = json.loads((out / "config.json").read_text()) | {"steps": 2}
    (out / "config.json").write_text(json.dumps(config))  # goes on from the checkpoint
    (out / "adapter").rename(out / "first")
    train(config_for(folder), out)
    first, second = (
        load_file(out / part / "adapter_model.safetensors") for part in ("first", "adapter")
    )
    assert any(not torch.equal(first[n], second[n]) for n in first)
    assert [row["step"] for row in read_history(out / "history.csv")] == [1, 2]


def test_another_family_by_the_recipe(samples, varied, tmp_path):
    """What `models.py` says about another model, done with Qwen2-VL."""
    tokenizer = tokenizer_of("qwen2_5_vl")
    ids = {
        f"{name}_token_id": tokenizer.convert_tokens_to_ids(f"<|{name}|>")
        for name in ("vision_start", "vision_end")
    }
    ids |= {
        f"{name}_token_id": tokenizer.convert_tokens_to_ids(f"<|{name}_pad|>")
        for name in ("image", "video")
    }
    text = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
    text |= {"num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": len(tokenizer)}
    text |= {"rope_parameters": {"rope_type": "default", "mrope_section": [4, 6, 6]}}
    text["rope_parameters"]["rope_theta"] = 1e6
    eye = {"depth": 2, "embed_dim": 64, "hidden_size": 64, "num_heads": 2, "mlp_ratio": 2}
    model = Qwen2VLForConditionalGeneration(
        Qwen2VLConfig(text_config=text, vision_config=eye, **ids)
    )
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(tmp_path / "model")
    images = CachedImageProcessor(patch_size=14, merge_size=2)
    kind = models.image_only(Qwen2VLProcessor)
    kind(images, tokenizer).save_pretrained(tmp_path / "model")

    varied.setitem(SPECS, "Qwen2VLProcessor", replace(QWEN2_5_VL, family="Qwen2-VL"))
    varied.setitem(models.IMAGE_ONLY, "qwen2_vl", kind)
    processor = load_processor(tmp_path / "model", 66_000)
    assert spec_of(processor).family == "Qwen2-VL"
    (episode,) = rollout([samples[0]], ScriptedPolicy(processor, [CALL, ANSWER]), progress=False)
    assert len(episode.images) == 2 and episode.answer == "K"
    out = run(config_for(tmp_path / "model", steps=1), tmp_path / "run")
    assert read_history(out / "history.csv")[0]["grad_norm"] > 0
    assert load_trained(out)[1].image_processor.size["longest_edge"] == 66_000


# --- names --------------------------------------------------------------------------------------


def test_names_that_lead_nowhere_say_so(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="nowhere is neither a folder with a model nor"):
        load(tmp_path / "nowhere")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match="Qwen/Qwen0-VL is neither a folder with a model nor"):
        load_processor("Qwen/Qwen0-VL")


def test_every_process_loads_onto_its_own_gpu(folder, monkeypatch):
    asked = {}
    whole = models.AutoModelForImageTextToText
    monkeypatch.setattr(whole, "from_pretrained", lambda name, **kwargs: asked.update(kwargs))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("LOCAL_RANK", "1")
    load(folder, precision="bf16")
    assert asked == {"dtype": torch.bfloat16, "device_map": {"": 1}}
    asked.clear()
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")  # accelerate places what it cuts up
    load(folder, precision="bf16")
    assert asked == {"dtype": torch.bfloat16}


def test_four_bits_without_bitsandbytes_say_what_to_install(folder, monkeypatch):
    import builtins

    real = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name == "bitsandbytes":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ImportError, match=r"QLoRA needs bitsandbytes: `pip install -e .\[gpu\]`"):
        load(folder, quantise=True)


def test_the_targets_of_lora_are_the_language_model_s(loaded):
    import re

    from torch import nn

    model, _ = loaded
    linear = [name for name, m in model.named_modules() if isinstance(m, nn.Linear)]
    found = [name for name in linear if re.fullmatch(LORA_TARGETS, name)]
    assert len(found) == 2 * 7 and not any("visual" in name for name in found)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"micro_batch": 3}, "micro_batch must divide a process's 2 rollouts .1 prompts x 2"),
        ({"trl": {"bta": 1}}, "TRL's GRPOConfig has no option 'bta'"),
        ({"trl": {"max_steps": 1}}, "TRL's max_steps follows from the run: set --steps instead"),
    ],
)
def test_settings_that_cannot_be_are_refused(folder, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        build_trainer(replace(config_for(folder), **changes), tmp_path)
