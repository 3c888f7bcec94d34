"""Four widgets; each opens with the keyboard alone and has a picture for readers without a kernel."""

from deepeyes_lite.widgets.reward_lab import RewardLab
from deepeyes_lite.widgets.training_scrubber import TrainingScrubber
from deepeyes_lite.widgets.trajectory_viewer import TrajectoryViewer
from deepeyes_lite.widgets.zoom_by_hand import ZoomByHand

__all__ = ["RewardLab", "TrainingScrubber", "TrajectoryViewer", "ZoomByHand"]
