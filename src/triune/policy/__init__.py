"""Policies: families that turn samples into decisions and decisions into log-probabilities."""
