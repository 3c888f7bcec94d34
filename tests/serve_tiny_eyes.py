"""`transformers serve` on a folder of tiny-eyes: python tests/serve_tiny_eyes.py FOLDER PORT.

The stock server of transformers, on loopback, with its own AutoProcessor. Where torchvision is missing,
the processor that the folder names is built without its video half; nothing else is replaced.
"""

import sys

import torch
from transformers.cli.serve import Serve
from transformers.models import qwen3_vl
from transformers.utils import is_torchvision_available

from deepeyes_lite.models import IMAGE_ONLY

if __name__ == "__main__":
    folder, port = sys.argv[1:]
    torch.set_num_threads(1)
    if not is_torchvision_available():
        qwen3_vl.Qwen3VLProcessor = IMAGE_ONLY["qwen3_vl"]
    Serve(folder, host="127.0.0.1", port=int(port), device="cpu", dtype="float32")
