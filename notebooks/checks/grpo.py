"""Exercises of notebook 05: advantages, and the loss of tokens and of a batch."""

import torch

from checks.exercise import Exercise
from deepeyes_lite import rewards


def scaled(bonus=1.2, wrong_too=False, mean="group", std="group", ddof=1, least=1e-4):
    """The solution in torch; each setting turns a part of it off."""

    def attempt(correct, zoomed, generations):
        batch = 0.8 * correct + bonus * zoomed * (correct | wrong_too)
        groups = batch.view(-1, generations)
        means = {"group": groups.mean(1, keepdim=True), "batch": batch.mean(), "": 0}
        deviation = groups.std(1, correction=ddof, keepdim=True)
        deviations = {"group": deviation + least, "batch": batch.std() + least, "": 1}
        return ((groups - means[mean]) / deviations[std]).flatten()

    return attempt


CORRECT = torch.tensor([1, 1, 0, 0] + [1, 0, 0, 0] + [0, 0, 0, 0]).bool()
ZOOMED = torch.tensor([1, 0, 1, 0] + [0, 1, 1, 0] + [1, 1, 1, 1]).bool()

# Exercise 1. attempt(correct, zoomed, generations) -> (B,) advantages; correct and zoomed are (B,) bool.
advantages = Exercise(
    cases=[(CORRECT, ZOOMED, 4)],
    solution=lambda c, z, n: [
        a for group in (0.8 * c + 1.2 * c * z).split(n) for a in rewards.advantages(group.tolist())
    ],
    mistakes={
        "the bonus went to wrong answers, too: it is for a zoom and a right answer": (
            scaled(wrong_too=True)
        ),
        "there is no bonus: a right answer after a zoom is worth 0.8 + 1.2": scaled(bonus=0),
        "these are the rewards themselves: centre and scale them": scaled(mean="", std=""),
        "not centred: take the group's mean off, so that a group sums to 0": scaled(mean=""),
        "not scaled: divide by the group's std + 1e-4": scaled(std=""),
        "this is the population's std: TRL divides by G - 1, as torch.std does": scaled(ddof=0),
        "mean and std are the whole batch's: a rollout competes with its own group only": (
            scaled(mean="batch", std="batch")
        ),
        "the std is the whole batch's: each group has its own": scaled(std="batch"),
        "the sign is turned round: better than the mean is positive": lambda *x: -scaled()(*x),
        "a group with one reward only gave 0 / 0: add 1e-4 to the std": scaled(least=0),
    },
    praise="bonus for right answers only; centred and scaled group by group",
)

OLD_LOGPS = torch.tensor([[-2.0, -1.0, -0.5, -1.5], [-1.0, -2.5, -0.7, -1.2]])
RATIO = torch.tensor([0.5, 0.9, 1.1, 1.5])


def clip(pick=torch.minimum, ratio=lambda n, o: (n - o).exp()):
    """The solution; ``pick`` takes the plain and the clipped term."""

    def attempt(logps, old_logps, advantages, epsilon):
        r, a = ratio(logps, old_logps), advantages[:, None]
        return -pick(r * a, r.clamp(1 - epsilon, 1 + epsilon) * a)

    return attempt


def on_graph(attempt, logps, *rest):
    """The loss, marked where it has lost its gradient."""
    loss = attempt(logps.requires_grad_(), *rest)
    detached = loss is not None and not getattr(loss, "requires_grad", False)
    return ["no gradient", loss] if detached else loss


# Exercise 2. attempt(logps, old_logps, advantages, epsilon) -> (B, T) losses; advantages are (B,).
token_loss = Exercise(
    cases=[(OLD_LOGPS + RATIO.log(), OLD_LOGPS, torch.tensor([1.5, -0.5]), 0.2)],
    solution=clip(),
    mistakes={
        "max for min: the clip now rewards going too far": clip(torch.maximum),
        "the sign is turned round: this is the objective, the loss is minus it": (
            lambda *x: -clip()(*x)
        ),
        "not clipped: nothing holds the ratio near 1": clip(lambda free, cut: free),
        "clipped without min: a token that went the wrong way has no gradient back": (
            clip(lambda free, cut: cut)
        ),
        "the ratio is exp(logps - old_logps), not the difference": clip(ratio=lambda n, o: n - o),
        "the ratio is upside down: new over old": clip(ratio=lambda n, o: (o - n).exp()),
        "right numbers without a gradient: leave logps on the graph (no detach)": (
            lambda *x: clip()(*x).detach()
        ),
    },
    praise="the lesser of the plain and the clipped term, token by token",
    hint="advantages is (B,) and tokens are (B, T): advantages[:, None]",
    run=on_graph,
)

# Exercise 3. attempt(token_loss, completion_mask, tool_mask) -> loss of the batch as in DAPO; each is (B, T).
batch_loss = Exercise(
    cases=[
        (
            torch.randn(3, 6, generator=torch.Generator().manual_seed(0)),
            torch.tensor([[1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 0]]),
            torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 0, 0, 1, 1], [1, 0, 0, 1, 1, 1]]),
        )
    ],
    solution=lambda x, c, t: (x * c * t).sum() / (c * t).sum(),
    mistakes={
        "tool_mask is ignored: observations are not the model's words": (
            lambda x, c, t: (x * c).sum() / c.sum()
        ),
        "completion_mask is ignored: padding counts as words": (
            lambda x, c, t: (x * t).sum() / t.sum()
        ),
        "both masks are ignored: this is a plain mean over all places": lambda x, c, t: x.mean(),
        "mean per sequence: DAPO lets every token of the batch weigh the same": (
            lambda x, c, t: ((x * c * t).sum(1) / (c * t).sum(1)).mean()
        ),
        "masked above, not below: divide by the tokens that count, not by all places": (
            lambda x, c, t: (x * c * t).mean()
        ),
        "masked above, not below: observations still count in the divisor": (
            lambda x, c, t: (x * c * t).sum() / c.sum()
        ),
        "a sum: divide by the number of tokens that count": lambda x, c, t: (x * c * t).sum(),
    },
    praise="only the model's own tokens count, and each of them the same",
)
