"""Optimisation: the learner, its optimiser and checkpoints."""
