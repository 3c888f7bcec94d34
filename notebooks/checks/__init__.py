"""Exercises as data, a module for each notebook; `exercise.py` says what an exercise is."""
