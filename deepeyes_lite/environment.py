"""The TRL environment: `reset` and the tool.

TRL's ``environment_factory`` makes one per rollout, calls ``reset`` with the row, shows the public
methods to the model as tools and hands the instances to the reward function. ``rollout_func`` could not
do it: it cannot pass crops on to the loss (trl 1.16.0).
"""

from PIL import Image

from deepeyes_lite.tools import ZoomTool


class ZoomEnvironment(ZoomTool):
    """One episode's tool, opened on the row's image."""

    def reset(self, image: Image.Image, **row) -> None:
        """Start an episode on a row in our schema; the image is in the prompt already."""
        self._open(image)


class NoTool:
    """The environment of an arm without a tool: no public method but `reset`, so TRL offers none."""

    def __init__(self) -> None:
        self.boxes_px: list = []  # the record asks every environment for its calls

    def reset(self, image: Image.Image, **row) -> None:
        """Start an episode; there is nothing to open."""
