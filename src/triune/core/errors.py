"""Errors that name what is wrong, where it is, and what to do about it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class TriuneError(Exception):
    """Base of every error that a user is meant to read; the command line prints it without a traceback."""


class Stopped(TriuneError):
    """An alarm that the recipe names in `monitor.stop_on` ended the run, after a checkpoint."""


class DataError(TriuneError):
    """A row or a sample is unusable. The message names the file and row, or the sample id."""


class RecipeError(TriuneError):
    """A recipe cannot be run as written."""


class MediaMismatch(DataError):
    """Media tokens in the prompt and media features (or media objects) do not agree."""


class WindowExceeded(DataError):
    """A prompt does not fit the model's window; nothing is truncated to make it fit."""


class VerdictFailureRate(TriuneError):
    """Too many rollouts of one source could not be judged; training on the rest would be silently wrong."""


class ParityError(TriuneError):
    """Engine and learner disagree about log-probabilities, or the policy does not look at its images."""


class StorageError(TriuneError):
    """A run could not be written (disk full, permission); what was written before is intact."""


class ProcessLost(TriuneError):
    """Another process of a run by several has ended; this one ends too, because neither can go on alone."""


class ExportError(TriuneError):
    """What was exported is not what was trained; the folder is not kept."""


def nearest(name: str, valid: Iterable[str]) -> str:
    """A hint for an unknown name: the closest valid one, or the whole list when nothing is close."""
    names = sorted(valid)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"valid names: {', '.join(names) or '(none)'}"
