"""Marks for learners' notebooks: find the exercises, run the attempts within limits, print a table."""
