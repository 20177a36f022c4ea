"""Estimators of the advantage, one file per family."""
