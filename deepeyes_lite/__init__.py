"""deepeyes-lite: thinking with images."""

from pathlib import Path

DATA = Path(__file__).resolve().parent.parent / "data"  # the one place that knows where data/ is
