"""Checks of notebook 05: advantages, and the loss of tokens and of a batch."""

import torch

from checks import agrees


def advantages(attempt) -> None:
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
    if agrees(attempt, (correct, zoomed, 4), right, mistakes) is not None:
        print("[ok] bonus for right answers only; centred and scaled group by group")


def token_loss(attempt) -> None:
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
    found = agrees(attempt, (logps, old, advantages, 0.2), right, mistakes, hint)
    if found is None:
        return
    if not found.requires_grad:
        print("[not yet] right numbers without a gradient: leave logps on the graph (no detach)")
        return
    print("[ok] the lesser of the plain and the clipped term, token by token")


def batch_loss(attempt) -> None:
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
    found = agrees(attempt, (loss, completion, tool), total / mask.sum(), mistakes)
    if found is not None:
        print("[ok] only the model's own tokens count, and each of them the same")
