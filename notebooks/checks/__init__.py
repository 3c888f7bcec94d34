"""The exercises of the notebooks as data, a module for each, for learners: `exercise.py` says how."""
