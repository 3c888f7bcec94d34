"""deepeyes-lite: thinking with images.

The flat files of this package are the method. A folder is something else, and the first line of its
`__init__.py` says for whom. Flat files import no folder.

Read in this order:

     1 boxes.py          186  frames (box_px, box_view, box_1000), IoU, the size of a view
     2 tools.py          370  the zoom: a checked function, and TRL's environment class
     3 prompts.py        192  chat template, response template, reserved tokens
     4 trajectories.py   180  an episode, token by token; JSONL
     5 policies.py       306  who replies: a transformers model, or a script
     6 rollout.py        149  the batched loop: reply, call, crop, until the answer
     7 verifiers.py      489  correct or incorrect, by rule
     8 rewards.py        275  reward functions for TRL, variants as weights, advantages
     9 training.py       763  a run: LoRA, TRL's trainer, record, resume

These 2,910 lines are one training step, from the scene to the
gradient. Then which questions it trains on, and what it has learned:

    10 selection.py      280  which questions to train on: pass rate, tool benefit
    11 evaluation.py     320  what came of it: intervals, controls, paired tests

What the method stands on:

       config.py         126  what decides a run, and the presets
       models.py         408  what differs from one family of models to the next
       options.py        116  multiple choice, read out of a question and written into it
       formulas.py       388  are two numbers or formulas equal, in floats
       data.py           196  the one schema of a sample
       files.py          247  atomic write, lock, resumable JSONL
       doctor.py         218  checks of the machine
       fast.py           314  to be read last: speed, no result changes
       __main__.py       900  the commands; the one flat file that imports folders, to hand them in
"""

from pathlib import Path

__version__ = "0.1.0"

_HERE = Path(__file__).resolve().parent
# The one place that knows where data/ is: inside the package where it was installed from a wheel, beside it
# in the repository.
DATA = _HERE / "_data" if (_HERE / "_data").is_dir() else _HERE.parent / "data"
