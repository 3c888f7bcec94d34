"""Four widgets; each opens with the keyboard alone and has a picture for readers without a kernel."""

from deepeyes_lite.viz.widgets.reward_lab import RewardLab
from deepeyes_lite.viz.widgets.training_scrubber import TrainingScrubber
from deepeyes_lite.viz.widgets.trajectory_viewer import TrajectoryViewer
from deepeyes_lite.viz.widgets.zoom_by_hand import ZoomByHand

__all__ = ["RewardLab", "TrainingScrubber", "TrajectoryViewer", "ZoomByHand"]
