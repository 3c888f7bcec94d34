"""models.py: Qwen2.5-VL and Qwen3-VL by the same code as tiny-eyes.

Random weights of the published shapes, with layers and widths cut down, for a CPU has to bear them.
"""

import json
import re
import sys
from dataclasses import replace
from functools import partial

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import (
    AutoModelForImageTextToText,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLProcessor,
)
from trl.chat_template_utils import is_chat_template_prefix_preserving, supports_tool_calling

from conversation import CONVERSATION, assert_keeps_prefixes
from deepeyes_lite import doctor, models, prompts
from deepeyes_lite.fast import CachedImageProcessor, cache_vision, vision_tower
from deepeyes_lite.models import LORA_TARGETS, QWEN2_5_VL, SPECS, load, load_processor, spec_of
from deepeyes_lite.policies import LocalPolicy, OracleZoomPolicy, Policy, ScriptedPolicy
from deepeyes_lite.rollout import rollout
from deepeyes_lite.tinyworld.dataset import training_questions
from deepeyes_lite.tools import ZOOM
from deepeyes_lite.training import RunConfig, build_trainer, load_trained, read_history, train
from shapes import SHAPES, config_of, tokenizer_of, write_random
from trl_episode import trl_episode

NAMES = {
    "7B": "Qwen/Qwen2.5-VL-7B-Instruct",
    "3B": "Qwen/Qwen2.5-VL-3B-Instruct",
    "4B": "Qwen/Qwen3-VL-4B-Instruct",
}
ZOOM_CALL = {"name": ZOOM, "arguments": {"bbox_2d": [20, 30, 200, 190], "label": "red circle"}}
CALL = f"<think>?</think>\n<tool_call>\n{json.dumps(ZOOM_CALL)}\n</tool_call>"
ANSWER = "<think>I can read it.</think>\n<answer>K</answer>"


@pytest.fixture(scope="session", params=["7B", "4B"])  # both families, embeddings apart and tied
def folder(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    return write_random(NAMES[request.param], folder, layers=2, narrow=True)


@pytest.fixture(scope="session")
def loaded(folder):
    return load(folder, precision="fp32", max_pixels=100_000)


SMALL = {"steps": 2, "prompts_per_step": 1, "num_generations": 2, "save_steps": 1}
SMALL |= {"max_new_tokens": 6, "max_pixels": 66_000, "max_calls": 2, "micro_batch": 1}


def config_for(folder, **changes):
    return RunConfig(model=str(folder), gradient_checkpointing=True, **{**SMALL, **changes})


def test_the_shapes_are_the_published_ones_and_keep_their_heads_when_cut_down():
    for name in SHAPES:
        for config in (config_of(name), config_of(name, layers=2, narrow=True)):
            text, eye = config.text_config, config.vision_config
            head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
            assert head == 128 and eye.hidden_size // eye.num_heads in (64, 72, 80)
            assert config.tie_word_embeddings == (name[-11] in "234")
    for name, parameters in {"3B": 3.75e9, "7B": 8.29e9, "4B": 4.44e9}.items():
        with torch.device("meta"):
            model = AutoModelForImageTextToText.from_config(config_of(NAMES[name]))
        assert model.num_parameters() == pytest.approx(parameters, rel=0.01)


# --- template -----------------------------------------------------------------------------------


def test_a_rendered_conversation_is_a_prefix_of_its_continuation(loaded):
    _, processor = loaded
    assert supports_tool_calling(processor) and is_chat_template_prefix_preserving(processor)
    for tools in (Policy(processor).tools, None):
        for opening in ([], [{"role": "system", "content": "You are an owl."}]):
            render = partial(processor.apply_chat_template, tools=tools, tokenize=False)
            assert_keeps_prefixes(render, [*opening, *CONVERSATION])
            text = render([*opening, *CONVERSATION])
            assert ("# Tools" in text) == bool(tools) and ("an owl" in text) == bool(opening)
            assert text.count(prompts.IMAGE) == 2


def test_the_schema_requires_the_box_that_it_has(loaded):
    _, processor = loaded
    policy = Policy(processor)
    text = processor.tokenizer.decode(policy.prompt_ids("What?", Image.new("RGB", (300, 200))))
    line = next(line for line in text.splitlines() if ZOOM in line and "parameters" in line)
    parameters = json.loads(line)["function"]["parameters"]
    assert parameters["required"] == ["bbox_2d"]
    description = parameters["properties"]["bbox_2d"]["description"]
    assert ("pixels of that image" in description) == (policy.spec.frame == "view")
    assert ("0-1000" in description) == (policy.spec.frame == "1000")
    assert text.count("Think first, call **image_zoom_in_tool**") == 1
    plain = Policy(processor, tools=False).prompt_ids("What?", Image.new("RGB", (300, 200)))
    assert plain == policy.without_tools().prompt_ids("What?", Image.new("RGB", (300, 200)))
    assert ZOOM not in processor.tokenizer.decode(plain)


def test_prompt_ids_are_those_of_the_processor(loaded):
    _, processor = loaded
    for policy in (Policy(processor, tools=tools) for tools in (True, False)):
        prompt = {"tools": policy.tools, "add_generation_prompt": True, "tokenize": False}
        messages = prompts.user_message("What?", policy.suffix)
        text = processor.apply_chat_template(messages, **prompt)
        for size in [(384, 384), (301, 173), (60, 61)]:
            image = Image.new("RGB", size)
            expected = processor(text=[text], images=[image])["input_ids"][0]
            assert policy.prompt_ids("What?", image) == list(expected)


# --- rollout ------------------------------------------------------------------------------------


def test_rollouts_of_random_weights_do_not_depend_on_their_batch(loaded, samples):
    model, processor = loaded
    policy = LocalPolicy(model, processor, temperature=0.0, max_new_tokens=5)
    sizes = [(384, 384), (200, 301), (431, 120)]
    rows = [{**samples[i], "image": samples[i]["image"].resize(s)} for i, s in enumerate(sizes)]
    together = rollout(rows, policy, progress=False)
    alone = [rollout([row], policy, progress=False)[0] for row in rows]
    assert [t.completion_ids for t in together] == [t.completion_ids for t in alone]
    (oracle,) = rollout(rows[:1], OracleZoomPolicy(policy), progress=False)
    assert len(oracle.images) == 2 and oracle.best_iou > 0.5


def test_every_image_has_its_own_features(loaded):
    """Cached features are those that the tower computes for the image alone."""
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


@pytest.fixture(autouse=True)
def fp32(monkeypatch):
    """The same precision on every machine."""
    monkeypatch.setattr(doctor, "precision", lambda: ("fp32", "a test"))


def test_the_loop_and_trl_make_the_same_episode(folder, samples, monkeypatch, tmp_path):
    config = config_for(folder, max_new_tokens=90)
    trainer = build_trainer(config, tmp_path, training_questions(config))
    processor = trainer.processing_class
    for script in ([CALL, ANSWER], [ANSWER], [CALL, CALL, ANSWER]):
        (ours,) = rollout([samples[0]], ScriptedPolicy(processor, script), progress=False)
        suffix = spec_of(processor).suffix[True]
        theirs = trl_episode(trainer, samples[0], script, monkeypatch, suffix=suffix)
        assert ours.prompt_ids == theirs["prompt_ids"]
        assert ours.completion_ids == theirs["completion_ids"]
        assert ours.loss_mask == theirs["loss_mask"]
        assert len(ours.images) == theirs["images"]


@pytest.mark.train
def test_a_run_trains_the_language_model_alone(folder, tmp_path):
    out = run(config_for(folder), tmp_path / "run")
    adapter = load_file(out / "adapter" / "adapter_model.safetensors")
    assert len(adapter) == 2 * 2 * 7 and all("language_model" in name for name in adapter)
    assert max(v.abs().max() for n, v in adapter.items() if "lora_B" in n) > 0
    rows = read_history(out / "history.csv")
    assert [row["step"] for row in rows] == [1, 2] and rows[0]["grad_norm"] > 0

    model, processor = load_trained(out)
    plain = load(folder, precision="fp32")[0].state_dict()
    for name, value in model.state_dict().items():
        adapted = "language_model" in name and "_proj" in name and "bias" not in name
        assert torch.equal(value, plain[name]) != adapted, name
    assert processor.image_processor.size["longest_edge"] == 66_000


@pytest.mark.train
def test_rollout_and_step_run_in_bf16(folder, samples, monkeypatch, tmp_path):
    model, processor = load(folder, precision="bf16", max_pixels=66_000)
    assert model.dtype == torch.bfloat16
    policy = LocalPolicy(model, processor, max_new_tokens=4)
    (episode,) = rollout([samples[0]], policy, progress=False)
    assert 1 <= len(episode.completion_ids) <= 4
    monkeypatch.setattr(doctor, "precision", lambda: ("bf16", "a test"))
    config = config_for(folder)  # two steps: the first one has a rate of 0
    questions = training_questions(config)
    trainer = build_trainer(config, tmp_path, questions, rewards={by_turns: 1.0})
    trainer.train()
    assert trainer.state.log_history[1]["grad_norm"] > 0
    assert trainer.model.get_base_model().dtype == torch.bfloat16
    weights = [p for n, p in trainer.model.named_parameters() if "lora_B" in n]
    assert all(w.dtype == torch.float32 for w in weights) and any(w.any() for w in weights)


@pytest.mark.train
def test_another_family_by_the_recipe(samples, monkeypatch, tmp_path):
    """What `models.py` says about another model, done with Qwen2-VL."""
    tokenizer = tokenizer_of("qwen2_5_vl")
    names = {"vision_start": "vision_start", "vision_end": "vision_end"}
    names |= {"image": "image_pad", "video": "video_pad"}
    convert = tokenizer.convert_tokens_to_ids
    ids = {f"{name}_token_id": convert(f"<|{token}|>") for name, token in names.items()}
    text = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
    text |= {"num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": len(tokenizer)}
    rope = {"rope_type": "default", "mrope_section": [4, 6, 6], "rope_theta": 1e6}
    text |= {"rope_parameters": rope}
    eye = {"depth": 2, "embed_dim": 64, "hidden_size": 64, "num_heads": 2, "mlp_ratio": 2}
    config = Qwen2VLConfig(text_config=text, vision_config=eye, **ids)
    model = Qwen2VLForConditionalGeneration(config)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(tmp_path / "model")
    images = CachedImageProcessor(patch_size=14, merge_size=2)
    kind = models.image_only(Qwen2VLProcessor)
    kind(images, tokenizer).save_pretrained(tmp_path / "model")

    monkeypatch.setitem(SPECS, "Qwen2VLProcessor", replace(QWEN2_5_VL, family="Qwen2-VL"))
    monkeypatch.setitem(models.IMAGE_ONLY, "qwen2_vl", kind)
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


def test_every_process_loads_onto_its_own_gpu_and_four_bits_need_bitsandbytes(folder, monkeypatch):
    asked = {}
    auto = models.AutoModelForImageTextToText
    monkeypatch.setattr(auto, "from_pretrained", lambda name, **kwargs: asked.update(kwargs))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("LOCAL_RANK", "1")
    load(folder, precision="bf16")
    assert asked == {"dtype": torch.bfloat16, "device_map": {"": 1}}
    asked.clear()
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")  # accelerate places what it cuts up
    load(folder, precision="bf16")
    assert asked == {"dtype": torch.bfloat16}
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ImportError, match=r"QLoRA needs bitsandbytes: `pip install -e .\[gpu\]`"):
        load(folder, quantise=True)


def test_the_targets_of_lora_are_the_language_model_s(loaded):
    linear = [name for name, m in loaded[0].named_modules() if isinstance(m, torch.nn.Linear)]
    targets = [name for name in linear if re.fullmatch(LORA_TARGETS, name)]
    assert len(targets) == 2 * 7 and not any("visual" in name for name in targets)


def test_settings_that_cannot_be_are_refused(folder, tmp_path):
    for changes, message in [
        ({"micro_batch": 3}, "micro_batch must divide a process's 2 rollouts .1 prompts x 2"),
        ({"trl": {"bta": 1}}, "TRL's GRPOConfig has no option 'bta'"),
        ({"trl": {"max_steps": 1}}, "TRL's max_steps follows from the run: set --steps instead"),
    ]:
        with pytest.raises(ValueError, match=message):
            build_trainer(config_for(folder, **changes), tmp_path)
