"""The exercises of the notebooks as data, a module for each notebook, for learners: `exercise.py` says how."""
