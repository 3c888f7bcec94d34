"""`transformers serve` on a folder of tiny-eyes: python tests/serve_tiny_eyes.py FOLDER PORT.

The stock server of transformers, on loopback. All that is added is what its AutoProcessor cannot know: the
processor of tiny-eyes, which is ours.
"""

import sys

import torch
from transformers import AutoProcessor, PreTrainedTokenizerFast
from transformers.cli.serve import Serve

from deepeyes_lite.tinyworld.model import build_processor


def load(folder: str, **_):
    return build_processor(PreTrainedTokenizerFast.from_pretrained(folder))


if __name__ == "__main__":
    folder, port = sys.argv[1:]
    torch.set_num_threads(1)
    AutoProcessor.from_pretrained = load
    Serve(folder, host="127.0.0.1", port=int(port), device="cpu", dtype="float32")
