"""The tiny world, handed in by callers: scenes, questions, tiny-eyes; for those without a GPU."""
