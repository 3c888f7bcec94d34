"""Four widgets for learners, usable with the keyboard alone; three carry their data and need no kernel."""

from deepeyes_lite.viz.widgets.reward_lab import RewardLab
from deepeyes_lite.viz.widgets.training_scrubber import TrainingScrubber
from deepeyes_lite.viz.widgets.trajectory_viewer import TrajectoryViewer
from deepeyes_lite.viz.widgets.zoom_by_hand import ZoomByHand

__all__ = ["RewardLab", "TrainingScrubber", "TrajectoryViewer", "ZoomByHand"]
