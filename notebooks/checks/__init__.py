"""Checks of the exercises, a module for each notebook: each names the typical mistake."""

import numpy as np
import torch


def agrees(attempt, inputs: tuple, right: torch.Tensor, mistakes: dict, hint: str = ""):
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
    print(f"[not yet] expected {_text(right)}, got {_text(found)}")
    return None


def over(attempt, cases: list[tuple]):
    """The attempt over all cases as one function without arguments, for `agrees`; its name stays."""

    def table():
        found = [attempt(*case) for case in cases]
        if all(value is None for value in found):
            return None
        for case, value in zip(cases, found):
            if value is None:
                raise ValueError(f"{attempt.__name__}{case} returns nothing")
        return [np.asarray(value, dtype=float).tolist() for value in found]

    table.__name__ = attempt.__name__
    return table


def _text(numbers: torch.Tensor) -> str:
    return str([round(x, 3) for x in numbers.detach().flatten().tolist()])
