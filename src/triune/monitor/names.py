"""What metrics are called in trackers: by their own names, by TRL's where it has one, or by V-Triune's.

A tracker knows series of numbers by one name each; here a metric has labels and moments. So each metric is merged over the
sources of a step (`PHASE/NAME`), and once more per source (`SOURCE/PHASE/NAME`); further labels are appended
(`grad_norm/module.vision`). TRL's names are those of `trl.GRPOTrainer` (1.16) as transformers hands them to trackers
(`train/reward`, `eval/reward`); V-Triune's those of `verl/trainer/ppo/metric_utils.py`, `ray_trainer.py` and `dp_actor.py` in
MiniMax-AI/One-RL-to-See-Them-All. `docs/trackers.md` lists them; a test compares.
"""

from __future__ import annotations

import hashlib
import math
import string
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Literal

from triune.monitor.metric import Labels, Metric, merge

Style = Literal["triune", "trl", "v-triune"]
Moment = Literal["mean", "min", "max", "std", "sum"]
"""`std` divides by one value less than there are, as torch does; `sum` is what a count is read by."""

COUNTS = (
    "dropped/reason", "layout/micro_batches", "layout/over_budget", "grad_skipped",
    "minibatches_empty", "dynamic_sampling/*", "difficulty/*", "replay/*", "rollouts/unkept", "sinks/*", "rows_skipped",
)  # fmt: skip
"""Metrics that are read by their sum; every other one by its mean (counts per group, such as `pairs`, too)."""
WATCHED = ("sampling/sampling_logp_difference", "ratio", "log_ratio_abs", "mismatch/ratio")
"""Metrics whose greatest value matters: it is there too, as NAME/max."""


@dataclass(frozen=True, slots=True)
class Key:
    """One series that another framework has: `moment` of the metric `name`, of those with the labels `where`.

    `whole` and `source` are its names for a step and for one source of it, '' where there is none; `{component}` and the like
    stand for labels, and what they do not name is merged. `held_out` is the name per source in evaluations, '' for none; by
    default it is the same. What has no name there keeps its own.
    """

    name: str
    whole: str = ""
    source: str = ""
    moment: Moment = "mean"
    where: Labels = ()
    held_out: str | None = None


def _same(name: str, key: str, moment: Moment = "mean", **where: str) -> Key:
    return Key(name, key, key, moment, tuple(where.items()))


TRL = (
    _same("reward", "reward"),
    _same("reward", "reward_std", "std"),
    _same("frac_reward_zero_std", "frac_reward_zero_std"),
    _same("component", "rewards/{component}/mean"),
    _same("component", "rewards/{component}/std", "std"),
    _same("completions/length", "completions/mean_length"),
    _same("completions/length", "completions/min_length", "min"),
    _same("completions/length", "completions/max_length", "max"),
    _same("completions/clipped_ratio", "completions/clipped_ratio"),
    _same("entropy", "entropy"),
    _same("kl/reference", "kl"),
    _same("clip_frac/low", "clip_ratio/low_mean"),
    _same("clip_frac/high", "clip_ratio/high_mean"),
    _same("sampling/sampling_logp_difference", "sampling/sampling_logp_difference/mean"),
    _same("sampling/sampling_logp_difference", "sampling/sampling_logp_difference/max", "max"),
    _same("mismatch/weight", "sampling/importance_sampling_ratio/mean"),
    _same("mismatch/weight", "sampling/importance_sampling_ratio/min", "min"),
    _same("mismatch/weight", "sampling/importance_sampling_ratio/max", "max"),
    _same("grad_norm", "grad_norm", module="all"),
    _same("seconds", "step_time", phase="step"),
    # TRL's `reward_std` is of all rewards of a step; within a group it has no name there, and must not take that one.
    _same("reward_std", "reward_std_in_group"),
)
"""TRL's names. Three more are made of several metrics: see `DERIVED`."""


def _rewards(name: str, reward: str, where: Labels = ()) -> Key:
    """A reward as V-Triune logs it: of all, per source, and per source in its online test."""
    per_source = f"rews_{reward}/{{source}}"
    return Key(name, f"rews/{reward}", per_source, "mean", where, held_out=f"test_{reward}/{{source}}")


def _lengths(name: str, key: str) -> Key:
    return Key(name, f"response_length/{key}", f"response_length_{{source}}/{key}", held_out="")


def _reflection(name: str, key: str) -> Key:
    return Key(name, "", f"reflection_ratios_{{source}}/{key}", held_out="")


_MATCH = "report_iou_{}_label_match_{}_reward"

V_TRIUNE = (
    Key("reward", "rews/total_score", held_out=""),
    _rewards("reward", "final_reward"),
    _rewards("accuracy", "accuracy_reward"),
    _rewards("component", "format_reward", (("component", "format"),)),
    *(
        _rewards(f"verifier/{ours}@{percent}", _MATCH.format(percent, theirs))
        for percent in (50, 75, 95, 99)
        for ours, theirs in (("iou", "pure"), ("precision", "precision"), ("recall", "recall"))
    ),
    _rewards("verifier/map", "pure_map_score_reward"),
    _lengths("completions/length", "mean_length"),
    _lengths("completions/length_correct", "mean_correct_length"),
    _lengths("completions/length_wrong", "mean_wrong_length"),
    _lengths("completions/clipped_ratio", "length_clip_ratio"),
    _lengths("completions/clipped_ratio_correct", "length_correct_clip_ratio"),
    _lengths("completions/clipped_ratio_wrong", "length_wrong_clip_ratio"),
    Key("prompts/length", "prompt_length/mean", held_out=""),
    Key("prompts/length", "prompt_length/min", moment="min", held_out=""),
    Key("prompts/length", "prompt_length/max", moment="max", held_out=""),
    _reflection("reflection/ratio", "reflection_ratio"),
    _reflection("reflection/ratio_correct", "reflection_ratio_in_correct_answers"),
    _reflection("reflection/ratio_wrong", "reflection_ratio_in_incorrect_answers"),
    _reflection("reflection/correct_with", "correct_ratio_in_reflection_texts"),
    _reflection("reflection/correct_without", "correct_ratio_in_no_reflection_texts"),
    Key("reflection/word", "", "reflection_words_{source}/{word}", "sum", held_out=""),
    Key("entropy", "actor/entropy"),
    Key("clip_frac/dual", "actor/pg_clipfrac_lower"),
    Key("grad_norm", "actor/grad_norm", where=(("module", "all"),)),
    Key("grad_norm/layer", "layer_grad_norm/{layer}"),
    Key("seconds", "timing_s/gen", where=(("phase", "rollout"),)),
    Key("seconds", "timing_s/update_actor", where=(("phase", "update"),)),
    Key("seconds", "timing_s/step", where=(("phase", "step"),)),
    Key("seconds", "perf/time_per_step", where=(("phase", "step"),)),
)
"""V-Triune's names, bare as they are there. Its held-out split is called `test`, here `eval`; of other evaluations the phase
stands in its place."""

DERIVED: Mapping[Style, Mapping[str, str]] = {
    "triune": {},
    "trl": {
        "clip_ratio/region_mean": "clip_frac/low + clip_frac/high",
        "tools/call_frequency": "calls in tools/ok per rollout",
        "tools/failure_frequency": "1 - tools/ok",
    },
    "v-triune": {"actor/pg_clipfrac": "clip_frac/low + clip_frac/high"},
}
"""Series of a whole step that are made of several metrics. TRL's `num_tokens` is the tracker's to count."""

_TABLES: Mapping[Style, tuple[Key, ...]] = {"triune": (), "trl": TRL, "v-triune": V_TRIUNE}


def part(value: str, allowed: Callable[[str], bool] = str.isprintable) -> str:
    """A label's value as one part of a name, so that different values stay different: a slash is a dot, and whatever is
    not `allowed`, a dot itself or at a place that would be misread is `.-HEX-`."""
    made = []
    for at, c in enumerate(value):
        misread = (c in "/_" and at == 0) or (c == "-" and at > 0 and value[at - 1] == "/")
        if c == "/" and not misread:
            made.append(".")
        elif c == "." or misread or not allowed(c):
            made.append(f".-{ord(c):x}-")
        else:
            made.append(c)
    return "".join(made) or ".--"


def plain(c: str) -> bool:
    """What MLflow allows in a name on every system, but for the slash."""
    return c.isalnum() or c in "_- "


@dataclass
class Namer:
    """Turns a step's metrics into named numbers; remembers which series has which name, so that no two share one.

    `allowed` says which characters a tracker takes, `longest` and `largest` how long its names and how large its numbers may
    be. What is not finite, or larger, is left out and counted as NAME/nonfinite.
    """

    style: Style = "trl"
    per_source: bool = True
    allowed: Callable[[str], bool] = str.isprintable
    longest: int = 250
    largest: float = math.inf
    _owners: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def values(self, phase: str, metrics: Iterable[Metric]) -> dict[str, float]:
        """By name; in the same order for the same metrics."""
        found: dict[str, float] = {}
        named: dict[str, list[Metric]] = defaultdict(list)
        for metric in metrics:
            named[metric.name].append(metric)
        taken: dict[bool, set[int]] = {False: set(), True: set()}  # whole, per source
        for key in _TABLES[self.style]:
            held_out = key.held_out if phase != "train" else None
            whole, source = (key.whole, key.source) if held_out is None else ("", held_out)
            mine = [one for one in named.get(key.name, ()) if set(key.where) <= set(one.labels)]
            for template, by_source in ((whole, False), (source, True)):
                if template:
                    taken[by_source].update(map(id, mine))
                    self._add(found, phase, mine, template, by_source, key.moment, theirs=True)
        for name, all_of_it in sorted(named.items()):
            moment: Moment = "sum" if any(fnmatchcase(name, pattern) for pattern in COUNTS) else "mean"
            for by_source in (False, True):
                alike: dict[tuple[str, ...], list[Metric]] = defaultdict(list)
                for one in all_of_it:
                    if id(one) not in taken[by_source]:
                        alike[tuple(label for label, _ in one.labels if label not in _MERGED)].append(one)
                for labels, same in sorted(alike.items()):
                    own = "/".join([*map(self._literal, name.split("/")), *(f"{k}.{{{k}}}" for k in labels)])
                    self._add(found, phase, same, own, by_source, moment)
                    if name in WATCHED:
                        self._add(found, phase, same, f"{own}/max", by_source, "max")
        for name, value in _derived(self.style, [one for many in named.values() for one in many]):
            self._put(found, (name, phase), self._prefix(phase, theirs=True) + name, value)
        return found

    # -- inside ----------------------------------------------------------------------------------------------------

    def _add(
        self,
        found: dict[str, float],
        phase: str,
        metrics: Sequence[Metric],
        template: str,
        by_source: bool,
        moment: Moment,
        theirs: bool = False,
    ) -> None:
        """Merges what the template does not name, and puts what is left under its names."""
        chosen = [one for one in metrics if not by_source or (self.per_source and one.label("source"))]
        labels = [name for _, name, _, _ in string.Formatter().parse(template) if name]
        for one in merge(chosen, by=[*labels, *(["source"] if by_source else ())]):
            if moment == "std" and one.count < 2:
                continue  # nobody knows it
            if "{source}" in template:  # V-Triune's own place for it, and its way of writing it
                source = self._part(one.label("source").replace("/", "_"))
                key = template.format_map(self._parts(one) | {"source": source})
                key = key if phase in ("train", "eval") else f"{phase}{key.removeprefix('test')}"
            else:
                head = (
                    f"{self._part(one.label('source'))}/{phase}/"
                    if by_source
                    else self._prefix(phase, theirs)
                )
                key = head + template.format_map(self._parts(one))
            identity = (template, phase, moment, *map("=".join, one.labels))
            unseen = one.nonfinite if moment in ("mean", "sum") else 0
            self._put(found, identity, key, _moment(one, moment) if one.count else None, unseen)

    def _prefix(self, phase: str, theirs: bool = False) -> str:
        return "" if theirs and self.style == "v-triune" and phase == "train" else f"{phase}/"

    def _literal(self, piece: str) -> str:
        return self._part(piece).replace("{", "{{").replace("}", "}}")

    def _parts(self, one: Metric) -> dict[str, str]:
        return {label: self._part(value) for label, value in one.labels}

    def _part(self, value: str) -> str:
        return part(value, self.allowed)

    def _put(
        self,
        found: dict[str, float],
        identity: tuple[str, ...],
        key: str,
        value: float | None,
        nonfinite: int = 0,
    ) -> None:
        room = self.longest - len("/nonfinite")
        if len(key) > room or self._owners.get(key, identity) != identity:
            digest = hashlib.sha256("\0".join(identity).encode(errors="surrogatepass")).hexdigest()[:8]
            key = f"{key[: room - 9]}.{digest}"
        self._owners.setdefault(key, identity)
        if value is not None and math.isfinite(value) and abs(value) <= self.largest:
            found[key] = value
        elif value is not None:
            nonfinite += 1
        if nonfinite:
            found[f"{key}/nonfinite"] = float(nonfinite)


_MERGED = ("source", "task")


def _moment(metric: Metric, moment: Moment) -> float:
    if moment == "sum":
        return metric.mean * metric.count
    if moment == "std":
        return metric.std * math.sqrt(metric.count / (metric.count - 1))
    value: float = getattr(metric, moment)
    return value


def _derived(style: Style, metrics: Sequence[Metric]) -> Iterator[tuple[str, float]]:
    whole = {one.name: one for one in merge(metrics, by=())}
    low, high = whole.get("clip_frac/low"), whole.get("clip_frac/high")
    if low and high and low.count and high.count and style != "triune":
        yield ("clip_ratio/region_mean" if style == "trl" else "actor/pg_clipfrac"), low.mean + high.mean
    calls, rollouts = whole.get("tools/ok"), whole.get("completions/length")
    if style == "trl" and calls and rollouts:
        yield "tools/call_frequency", calls.count / rollouts.count
        yield "tools/failure_frequency", 1.0 - calls.mean


def reserved(style: Style) -> Iterator[tuple[str, str, str]]:
    """(name here, moment, names there) of every row, for the page that lists them."""
    for key in _TABLES[style]:
        there = dict.fromkeys(filter(None, (key.whole, key.source, key.held_out)))
        where = "".join(f" of {label} {value}" for label, value in key.where)
        yield key.name + where, key.moment, ", ".join(there)


__all__ = ["COUNTS", "DERIVED", "TRL", "V_TRIUNE", "Key", "Namer", "Style", "part", "plain", "reserved"]
