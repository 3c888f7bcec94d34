"""Checks of the exercises: each names the typical mistake."""

import numpy as np
import torch
from PIL import Image


def grpo_advantages(attempt) -> None:
    """Notebook 05, exercise 1: rewards of the conditional arm, then the advantages of every group.

    Args:
        attempt: takes ``correct`` (B,) bool, ``zoomed`` (B,) bool and ``generations``, gives (B,).
    """
    correct = torch.tensor([1, 1, 0, 0] + [1, 0, 0, 0] + [0, 0, 0, 0]).bool()
    zoomed = torch.tensor([1, 0, 1, 0] + [0, 1, 1, 0] + [1, 1, 1, 1]).bool()
    accuracy, bonus = 0.8 * correct, 1.2 * zoomed

    def per_group(rewards, population=False):
        groups = rewards.view(-1, 4)
        std = groups.std(1, correction=0 if population else 1, keepdim=True)
        return ((groups - groups.mean(1, keepdim=True)) / (std + 1e-4)).flatten()

    rewards = accuracy + bonus * correct
    groups = rewards.view(-1, 4)
    centred = groups - groups.mean(1, keepdim=True)
    right = per_group(rewards)
    mistakes = {
        "the bonus went to wrong answers, too: it is for a zoom and a right answer": per_group(
            accuracy + bonus
        ),
        "there is no bonus: a right answer after a zoom is worth 0.8 + 1.2": per_group(accuracy),
        "these are the rewards themselves: centre and scale them": rewards,
        "not centred: take the group's mean off, so that a group sums to 0": (
            groups / (groups.std(1, keepdim=True) + 1e-4)
        ).flatten(),
        "not scaled: divide by the group's std + 1e-4": centred.flatten(),
        "this is the population's std: TRL divides by G - 1, as torch.std does": per_group(
            rewards, population=True
        ),
        "mean and std are the whole batch's: a rollout competes with its own group only": (
            (rewards - rewards.mean()) / (rewards.std() + 1e-4)
        ),
        "the std is the whole batch's: each group has its own": (
            centred / (rewards.std() + 1e-4)
        ).flatten(),
        "the sign is turned round: better than the mean is positive": -right,
        "a group with one reward only gave 0 / 0: add 1e-4 to the std": torch.where(
            right == 0, torch.nan, right
        ),
    }
    if _grpo_agrees(attempt, (correct, zoomed, 4), right, mistakes) is not None:
        print("[ok] bonus for right answers only; centred and scaled group by group")


def grpo_token_loss(attempt) -> None:
    """Notebook 05, exercise 2: the clipped loss of every token.

    Args:
        attempt: takes ``logps`` (B, T), ``old_logps`` (B, T), ``advantages`` (B,) and ``epsilon``,
            gives (B, T).
    """
    ratio = torch.tensor([[0.5, 0.9, 1.1, 1.5], [0.5, 0.9, 1.1, 1.5]])
    old = torch.tensor([[-2.0, -1.0, -0.5, -1.5], [-1.0, -2.5, -0.7, -1.2]])
    logps = (old + ratio.log()).requires_grad_()
    advantages = torch.tensor([1.5, -0.5])
    a = advantages[:, None]
    clipped = ratio.clamp(0.8, 1.2)
    inverse, difference = 1 / ratio, ratio.log()
    mistakes = {
        "max for min: the clip now rewards going too far": -torch.maximum(ratio * a, clipped * a),
        "the sign is turned round: this is the objective, the loss is minus it": torch.minimum(
            ratio * a, clipped * a
        ),
        "not clipped: nothing holds the ratio near 1": -ratio * a,
        "clipped without min: a token that went the wrong way has no gradient back": -clipped * a,
        "the ratio is exp(logps - old_logps), not the difference": -torch.minimum(
            difference * a, difference.clamp(0.8, 1.2) * a
        ),
        "the ratio is upside down: new over old": -torch.minimum(
            inverse * a, inverse.clamp(0.8, 1.2) * a
        ),
    }
    right = -torch.minimum(ratio * a, clipped * a)
    hint = "advantages is (B,) and tokens are (B, T): advantages[:, None]"
    found = _grpo_agrees(attempt, (logps, old, advantages, 0.2), right, mistakes, hint)
    if found is None:
        return
    if not found.requires_grad:
        print("[not yet] right numbers without a gradient: leave logps on the graph (no detach)")
        return
    print("[ok] the lesser of the plain and the clipped term, token by token")


def grpo_batch_loss(attempt) -> None:
    """Notebook 05, exercise 3: one number for the batch, normalised as in DAPO.

    Args:
        attempt: takes ``token_loss``, ``completion_mask`` and ``tool_mask``, each (B, T), gives ().
    """
    loss = torch.tensor(
        [
            [-1.0, -0.8, -1.2, 0.3, 0.4, 0.2],
            [0.5, 0.7, 2.0, 3.0, 0.6, 0.9],
            [-0.4, 1.0, 1.5, -0.6, -0.5, 0.1],
        ]
    )
    completion = torch.tensor([[1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 0]])
    tool = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 0, 0, 1, 1], [1, 0, 0, 1, 1, 1]])
    mask = completion * tool
    total = (loss * mask).sum()
    mistakes = {
        "tool_mask is ignored: observations are not the model's words": (loss * completion).sum()
        / completion.sum(),
        "completion_mask is ignored: padding counts as words": (loss * tool).sum() / tool.sum(),
        "both masks are ignored: this is a plain mean over all places": loss.mean(),
        "mean per sequence: DAPO lets every token of the batch weigh the same": (
            (loss * mask).sum(1) / mask.sum(1)
        ).mean(),
        "masked above, not below: divide by the tokens that count, not by all places": total
        / mask.numel(),
        "masked above, not below: observations still count in the divisor": total
        / completion.sum(),
        "a sum: divide by the number of tokens that count": total,
    }
    found = _grpo_agrees(attempt, (loss, completion, tool), total / mask.sum(), mistakes)
    if found is not None:
        print("[ok] only the model's own tokens count, and each of them the same")


def _grpo_agrees(attempt, inputs: tuple, right: torch.Tensor, mistakes: dict, hint: str = ""):
    """What an attempt gives where that is right; else None, and it is said what went wrong.

    Args:
        attempt: the learner's function.
        inputs: its arguments.
        right: what it should give.
        mistakes: what each typical mistake gives, by the message about it.
        hint: said where the attempt raises.
    """
    try:
        found = attempt(*inputs)
    except Exception as error:  # a learner's code: anything may go wrong in it
        print(f"[not yet] {type(error).__name__}: {error}" + (f"\n{hint}" if hint else ""))
        return None
    if found is None:
        print(f"[todo] {attempt.__name__} returns nothing so far")
        return None
    found = torch.as_tensor(found, dtype=torch.float32)
    if found.shape != right.shape:
        print(f"[not yet] the shape is {tuple(found.shape)}, not {tuple(right.shape)}")
        return None
    for message, numbers in {"": right, **mistakes}.items():
        if torch.allclose(found, numbers, rtol=2e-3, atol=2e-3, equal_nan=True):
            if not message:
                return found
            print(f"[not yet] {message}")
            return None
    print(f"[not yet] expected {_grpo_text(right)}, got {_grpo_text(found)}")
    return None


def _grpo_text(numbers: torch.Tensor) -> str:
    return str([round(x, 3) for x in numbers.detach().flatten().tolist()])


# --- 03_imcot_rollout -----------------------------------------------------------------------------


def rollout_crop(attempt) -> None:
    """Notebook 03, exercise 1: the crop of a ``box_1000``, cut from the original.

    Args:
        attempt: takes ``scene`` (an image) and ``box_1000``, gives the crop.
    """
    print("[{}] {}".format(*_rollout_judge_crop(attempt)))


def rollout_mask(attempt) -> None:
    """Notebook 03, exercise 2: the loss mask of a completion.

    Args:
        attempt: takes ``ids`` (list), ``end`` (an id) and ``opening`` (list), gives 0 or 1 for each id.
    """
    print("[{}] {}".format(*_rollout_judge_mask(attempt)))


def rollout_step(attempt, processor) -> None:
    """Notebook 03, exercise 3: one step of the loop.

    Args:
        attempt: takes ``episode``, ``reply``, ``tool`` and ``policy``; gives whether it goes on.
        processor: the model's processor.
    """
    print("[{}] {}".format(*_rollout_judge_step(attempt, processor)))


def _rollout_judge_crop(attempt) -> tuple[str, str]:
    # Red and green count columns and rows, so that a crop shows where it was cut; blue is a
    # checkerboard, which does not survive the reduction to a view.
    y, x = np.mgrid[:200, :400]
    scene = Image.fromarray(np.stack([x // 2, y, 255 * ((x + y) % 2)], -1).astype(np.uint8))
    try:
        crop = attempt(scene.copy(), (250, 400, 500, 800))  # (100, 80, 200, 160) in pixels
    except Exception as error:
        return "not yet", f"{type(error).__name__}: {error}"
    if crop is None:
        return "todo", "my_crop returns nothing so far"
    if not isinstance(crop, Image.Image):
        return "not yet", f"return the crop, an image, not a {type(crop).__name__}"
    if min(crop.size) < 1:
        return "not yet", "the crop is empty: multiply the shares by the sides of the image"
    pixels = np.asarray(crop.convert("RGB")).astype(int)
    column, row, blue = 2 * pixels[0, 0, 0], pixels[0, 0, 1], pixels[..., 2]
    wrong_starts = {
        (160, 50): "x and y are swapped: a box is (x1, y1, x2, y2)",
        (100, 160): "y was scaled with the width; it belongs to the height",
        (50, 80): "x was scaled with the height; it belongs to the width",
        (24, 38): "these are pixels of the 96 x 96 view, but the crop comes from the original",
    }
    if ((blue > 8) & (blue < 247)).any():
        return "not yet", "the fine pattern is gone: cut from scene, the original, not a view"
    if crop.size == (250, 400):
        return "not yet", "0-1000 was taken for pixels: divide by 1000, times the side"
    if (column, row) in wrong_starts:
        return "not yet", wrong_starts[column, row]
    if (column, row) == (100, 80) and crop.size == (200, 160):
        return "not yet", "the last two numbers are a corner, not width and height"
    if (column, row) != (100, 80) or crop.size != (100, 80):
        cut = f"{crop.width} x {crop.height} px from ({column}, {row})"
        return "not yet", f"your crop is {cut}, expected 100 x 80 px from (100, 80)"
    return "ok", "the right place, cut from the original"


# Two calls in made-up ids: 2 ends a turn (an observation ends with one, too), 1 and 9 open the next
# reply, 8 is a crop's placeholder.
_ROLLOUT_SEEN = [5, 1, 7, 6, 8, 8, 8, 6, 2, 5, 1, 9]
_ROLLOUT_IDS = [11, 12, 13, 2, *_ROLLOUT_SEEN, 11, 14, 2, *_ROLLOUT_SEEN, 15, 16, 2]
_ROLLOUT_MASK = [1] * 4 + [0] * 12 + [1] * 3 + [0] * 12 + [1] * 3


def _rollout_judge_mask(attempt) -> tuple[str, str]:
    ids, right = _ROLLOUT_IDS, _ROLLOUT_MASK
    try:
        mask = attempt(list(ids), 2, [1, 9])
        if mask is None:
            return "todo", "my_mask returns nothing so far"
        mask = [int(value) for value in mask]
    except Exception as error:
        return "not yet", f"{type(error).__name__}: {error}"
    if mask == right:
        return "ok", "1 on what the model wrote, 0 on what it was shown"
    if len(mask) != len(ids):
        return "not yet", f"{len(mask)} values for {len(ids)} ids; every token needs its own"
    shown, reply = 4, 16  # first token of the first observation, of the second reply
    mistakes = [
        (mask == [1 - m for m in right], "upside down: 1 is for what the model wrote"),
        (all(mask), "all ones: the model would be trained to write its own crops"),
        (
            mask == [int(token != 8) for token in ids],
            "0 on the placeholders only; the model did not write the markup around them either",
        ),
        (
            not mask[shown - 1],
            "off by one where the observation begins: the end of turn is the model's own token; "
            "with mask 0 it never learns to stop",
        ),
        (
            mask[shown],
            "off by one where the observation begins: the token after the end of turn has mask 0",
        ),
        (not any(mask[shown:]), "later replies are the model's, too: mask 1"),
        (not mask[reply], "off by one where a reply begins: after the opening comes mask 1"),
        (
            mask[reply - 1],
            "a reply begins too early: an observation ends with an end of turn, too, so wait for "
            "the whole opening",
        ),
        (all(mask[reply:]), "the second observation has mask 1: start over after every reply"),
    ]
    for found, message in mistakes:
        if found:
            return "not yet", message
    i = next(i for i, pair in enumerate(zip(mask, right)) if pair[0] != pair[1])
    return "not yet", f"position {i} (id {ids[i]}) is {mask[i]}, expected {right[i]}"


def _rollout_judge_step(attempt, processor) -> tuple[str, str]:
    from deepeyes_lite import prompts
    from deepeyes_lite.policies import Policy, ScriptedPolicy
    from deepeyes_lite.rollout import rollout
    from deepeyes_lite.tools import ZoomTool
    from deepeyes_lite.trajectories import Trajectory

    call, outside = (prompts.tool_call({"bbox_2d": [v, v, v + 200, v + 100]}) for v in (100, 1200))
    answer = prompts.answer("I can read it.", "K")
    image = Image.new("RGB", (384, 384), (200, 200, 200))
    row = {"id": "check", "image": image, "question": "What letter is it?", "answer": "K"}
    policy = Policy(processor)
    scripts = {
        "one call": [call, answer],
        "a refused call": [outside, answer],
        "two calls": [call, call, answer],
    }
    for name, script in scripts.items():
        (right,) = rollout([row], ScriptedPolicy(processor, script), progress=False)
        episode = Trajectory({}, [image], policy.prompt_ids(row["question"], image))
        tool, went_on = ZoomTool(image), []
        for text in script:
            ids = processor.tokenizer(text + prompts.TURN_END, add_special_tokens=False)
            try:
                went_on.append(attempt(episode, ids["input_ids"], tool, policy))
            except Exception as error:
                return "not yet", f"{name}: {type(error).__name__}: {error}"
            if went_on == [None] and not episode.completion_ids:
                return "todo", "my_step does nothing so far"
            if not went_on[-1]:
                break
        mistake = _rollout_step_mistake(episode, right, went_on, len(script))
        if mistake:
            return "not yet", f"{name}: {mistake}"
    return "ok", "the same ids, mask and images as the package's loop"


def _rollout_step_mistake(episode, right, went_on: list, turns: int) -> str | None:
    ids, mask = episode.completion_ids, episode.loss_mask
    first = right.loss_mask.index(0)  # length of the first reply
    if went_on[-1] is None:
        return "my_step returned None; return True after a call, False after an answer"
    if len(went_on) < turns:
        if right.called:
            return "it stopped after a call; return True, so that the model sees the crop"
        return "a refused call ended the episode; the error goes back as text, and it goes on"
    if len(mask) != len(ids):
        return f"{len(mask)} mask values for {len(ids)} ids; let both grow together"
    if ids[:first] != right.completion_ids[:first]:
        return "the observation stands before its call; append the reply first"
    if len(ids) == sum(right.loss_mask):
        return "the observation's ids are missing; the model would answer without its crop"
    if went_on[-1]:
        return "it went on after the answer; return False where there is no call"
    if len(episode.images) != len(right.images):
        expected = f"{len(episode.images)} images, expected {len(right.images)}"
        return f"{expected}; every crop goes into episode.images"
    if ids != right.completion_ids:
        return f"{len(ids)} ids, expected {len(right.completion_ids)}; is a piece there twice?"
    if all(mask):
        return "the observation has mask 1, but the model did not write it"
    if mask != right.loss_mask:
        return "the mask must be 1 on replies and 0 on observations"
    return None


# --- 02_data_selection ----------------------------------------------------------------------------


def selection_signal(attempt) -> None:
    """Notebook 02, exercise 1: the chance that a group has both right and wrong answers.

    Args:
        attempt: takes ``p`` (N,), chances of a right answer, and ``k``, gives (N,).
    """
    print("[{}] {}".format(*_selection_judge_signal(attempt)))


def selection_benefit(attempt) -> None:
    """Notebook 02, exercise 2: the rule of the tool-benefit filter.

    Args:
        attempt: takes ``right_from_view`` and ``right_with_crop``, (N,) bool, gives (N,): keep it?
    """
    print("[{}] {}".format(*_selection_judge_benefit(attempt)))


def selection_open(attempt) -> None:
    """Notebook 02, exercise 3: multiple choice becomes an open question.

    Args:
        attempt: takes ``question`` and ``answer``, gives both rewritten, or None where that cannot be.
    """
    print("[{}] {}".format(*_selection_judge_open(attempt)))


def _selection_judge_signal(attempt) -> tuple[str, str]:
    p = np.array([0.0, 0.1, 0.3, 0.5, 0.8, 1.0])
    mistakes = {
        "all right is missing: take p^k off, too": lambda k: 1 - (1 - p) ** k,
        "all wrong is missing: take (1 - p)^k off, too": lambda k: 1 - p**k,
        "upside down: this is the chance that all are equal": lambda k: p**k + (1 - p) ** k,
        "this is the chance of one right answer exactly; two or more are fine, too": (
            lambda k: k * p * (1 - p) ** (k - 1)
        ),
        "p (1 - p) is the variance of one answer, whatever k": lambda k: p * (1 - p),
        "k p (1 - p) is the variance of the number of right answers, not a chance": (
            lambda k: k * p * (1 - p)
        ),
        "all right and all wrong exclude each other: take off their sum, not their product": (
            lambda k: 1 - p**k * (1 - p) ** k
        ),
        "k is ignored: this is right for k = 8 only": lambda k: 1 - p**8 - (1 - p) ** 8,
        "p and k are swapped: k answers, each right with chance p, are all right with p**k": (
            lambda k: 1 - k**p - k ** (1 - p)
        ),
    }
    for k in (8, 3):
        status, found = _selection_array(attempt, (p.copy(), k), len(p))
        if status:
            return status, found
        right = 1 - p**k - (1 - p) ** k
        if np.allclose(found, right, atol=1e-4):
            continue
        for message, wrong in mistakes.items():
            if np.allclose(found, wrong(k), atol=1e-4):
                return "not yet", message
        expected = f"{np.round(right, 3).tolist()}, got {np.round(found, 3).tolist()}"
        return "not yet", f"for p = {p.tolist()} and k = {k} expected {expected}"
    return "ok", "everything but all right and all wrong"


def _selection_judge_benefit(attempt) -> tuple[str, str]:
    view = np.array([False, False, True, True, False])
    crop = np.array([False, True, False, True, True])
    status, found = _selection_array(attempt, (view.copy(), crop.copy()), len(view))
    if status:
        return status, found + (
            "\nnot, and, or work on one value; for arrays there are ~, &, |"
            if "ambiguous" in found
            else ""
        )
    if not np.isin(found, (0, 1)).all():
        return "not yet", "give True or False for every question"
    found = found.astype(bool)
    mistakes = [
        (crop, "what the view answers is kept, too: it needs no zoom"),
        (~view, "kept without a look at the crop: what stays wrong with it is hopeless or spoiled"),
        (view & ~crop, "turned round: wrong from the view, right with the crop"),
        (~(~view & crop), "upside down: this is what is dropped"),
        (view != crop, "what the crop makes wrong is kept, too"),
        (view & crop, "this is what is right both times: nothing to gain from a zoom"),
        (view | crop, "this is what is right at least once, not what the crop makes right"),
    ]
    if (found == (~view & crop)).all():
        return "ok", "what the view does not answer and the crop does"
    for wrong, message in mistakes:
        if (found == wrong).all():
            return "not yet", message
    expected = f"{(~view & crop).tolist()}, got {found.tolist()}"
    return "not yet", f"for {view.tolist()} and {crop.tolist()} expected {expected}"


def _selection_array(attempt, inputs: tuple, n: int) -> tuple[str, np.ndarray | str]:
    """What an attempt gives as an array of ``n`` numbers, after ""; else a verdict and its reason."""
    try:
        found = attempt(*inputs)
        if found is None:
            return "todo", f"{attempt.__name__} returns nothing so far"
        found = np.asarray(found, dtype=float)
    except Exception as error:  # a learner's code: anything may go wrong in it
        return "not yet", f"{type(error).__name__}: {error}"
    if found.shape != (n,):
        return "not yet", f"one value for every question: the shape is {found.shape}, not ({n},)"
    return "", found


# Question, answer, what it becomes (None: it cannot be rewritten).
_SELECTION_QUIZ = [
    ("What is it?\nA. a cup\nB. a red hat\nC. a shoe", "B", ("What is it?", "a red hat")),
    ("What is it? (A) a cup (B) a hat", "(b)", ("What is it?", "a hat")),
    ("What is on the table?", "a cup", ("What is on the table?", "a cup")),
    ("Who is A. Smith?", "an actor", ("Who is A. Smith?", "an actor")),
    ("Which of these is red? A. the cup B. the hat", "A", None),
    ("What is red? A. the cup B. all of the above", "B", None),
    ("What is red? A. the cup B. the hat", "C", None),
]


def _selection_judge_open(attempt) -> tuple[str, str]:
    found = []
    for question, answer, _ in _SELECTION_QUIZ:
        try:
            found.append(attempt(question, answer))
        except Exception as error:
            hint = ""
            if isinstance(error, KeyError | ValueError | IndexError):
                hint = "\nan answer may be written '(b)', be no option, or have no options at all"
            return "not yet", f"{question!r}, {answer!r}: {type(error).__name__}: {error}{hint}"
    if not any(found):
        return "todo", "my_open returns nothing so far"
    for (question, answer, right), given in zip(_SELECTION_QUIZ, found):
        mistake = _selection_open_mistake(question, answer, right, given)
        if mistake:
            return "not yet", f"{question!r}, {answer!r}: {mistake}"
    return "ok", "rewritten where it can be, dropped where it leans on its options"


def _selection_open_mistake(question: str, answer: str, right, given) -> str | None:
    if given is None:
        if right is None:
            return None
        if right == (question, answer):
            return "there are no options here: it is open already, give it back as it is"
        return "this can be rewritten, and was dropped; '(b)' means option B"
    if not isinstance(given, tuple | list) or len(given) != 2:
        return f"give (question, answer) or None, not {given!r}"
    if not all(isinstance(text, str) for text in given):
        return f"question and answer are text, got {given!r}"
    text, truth = (part.strip() for part in given)
    if right is None:
        if "above" in question:
            return "'all of the above' is no answer once nothing is above: None"
        if answer == "C":
            return "the label is none of the options: None, nobody knows the right one"
        return "without its options nobody knows what 'these' are: None"
    if (text, truth) == right:
        return None
    if right == (question, answer):
        return "there are no options here: it is open already, give it back as it is"
    if truth.strip("().").upper() == answer.strip("().").upper():
        return "the answer is still the letter; it becomes the option's text"
    if "A." in text or "(A)" in text:
        return "the options still stand in the question, and the answer with them"
    if truth != right[1] and truth in question:
        return f"the answer is {right[1]!r}, not {truth!r}: is it another option, or a piece of it?"
    return f"expected {right!r}, got {(text, truth)!r}"
