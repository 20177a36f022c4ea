"""Views of the language family: what a reference, a teacher and a corrupted picture are, what they cost, what stays."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from triune.algo.options import ViewOptions
from triune.algo.types import Evaluated
from triune.algo.views.corrupted import CorruptedPictures
from triune.algo.views.frozen import FrozenPolicy
from triune.core.errors import RecipeError
from triune.core.sample import Media, Sample
from triune.core.schedule import Progress
from triune.core.trainspec import TrainSpec
from triune.core.trajectory import Trajectory
from triune.policy.corrupt import Noise, Patches, alpha_bar
from triune.policy.language import LanguageFamily
from triune.policy.options import LanguageOptions
from triune.testing.models import TINY, demand, picture, ragged, sample, talker, tiny, trajectories, write
from triune.testing.table import recipe
from triune.train.learner import Learner
from triune.train.memory import Memory, estimate
from triune.train.optim import Optimizer

NOW = Progress(step=1, total_steps=10)
MASKED = CorruptedPictures.model_validate({"corruption": {"kind": "patches", "patch": 4}})


def ready(family: LanguageFamily, samples: Sequence[Sample]) -> LanguageFamily:
    family.begin_step(samples)
    for one in samples:
        family.check(one)
    return family


def rolled(family: LanguageFamily, samples: Sequence[Sample], rollouts: int = 2) -> list[Trajectory]:
    return trajectories(talker(ready(family, samples), max_tokens=6).generate(samples, demand(rollouts)))


def seen(
    family: LanguageFamily, rollouts: Sequence[Trajectory], view: str = "current", *want: str
) -> Evaluated:
    with torch.no_grad():
        return family.evaluate(family.pack(rollouts), want=frozenset(want), view=view)


def nudge(family: LanguageFamily, *modules: str, seed: int = 1) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name in modules or tuple(family.modules()):
            for parameter in family.modules()[name].parameters():
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    family.pictures.forget_features()


def freeze(family: LanguageFamily, *modules: str) -> None:
    Optimizer(family.modules(), TrainSpec(total_steps=1, prompts_per_step=1)).freeze(modules)


# -- frozen --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", sorted(TINY))
def test_the_reference_is_the_policy_at_the_start_bit_for_bit(kind: str) -> None:
    family = tiny(kind)
    view = family.declare("reference", FrozenPolicy())
    rollouts = rolled(family, ragged())
    before = seen(family, rollouts)
    nudge(family)
    moved = seen(family, rollouts)
    assert (moved.logp - before.logp).abs().max() > 0.01
    for step in (1, 2):
        view.begin(0, Progress(step=step, total_steps=10))
        found = seen(family, rollouts, "reference")
        assert torch.equal(found.logp, before.logp)
        assert torch.equal(found.entropy, before.entropy)
    assert torch.equal(seen(family, rollouts).logp, moved.logp)  # and the live weights are back


def test_the_reference_gives_no_gradient_and_leaves_that_of_the_policy_alone() -> None:
    family = tiny("qwen")
    family.declare("reference", FrozenPolicy())
    rollouts = rolled(family, ragged())
    nudge(family)

    def gradient(look: bool) -> list[Tensor]:
        family.model.zero_grad()
        batch = family.pack(rollouts)
        current = family.evaluate(batch)
        if look:  # between the passes, as a heavy extra is
            reference = family.evaluate(batch, view="reference", want=frozenset({"distribution"}))
            assert not reference.logp.requires_grad
            assert not reference.extras["distribution"].requires_grad
        current.logp.sum().backward()
        return [p.grad.clone() for p in family.model.parameters() if p.grad is not None]

    for a, b in zip(gradient(False), gradient(True), strict=True):
        assert torch.equal(a, b)


def test_what_is_frozen_is_shared_until_it_is_thawed() -> None:
    family = tiny("qwen")
    view = family.declare("reference", FrozenPolicy())
    rollouts = rolled(family, ragged())
    before = seen(family, rollouts).logp
    sizes = {n: sum(p.nbytes for p in m.parameters()) for n, m in family.modules().items()}
    assert view.nbytes == sum(sizes.values())
    freeze(family, "vision", "connector")
    ready(family, ragged())
    view.begin(0, NOW)
    assert view.nbytes == sizes["language"]
    nudge(family, "language")
    computed = family.pictures.computed
    seen(family, rollouts)
    assert torch.equal(seen(family, rollouts, "reference").logp, before)
    assert family.pictures.computed - computed == 6  # six pictures, once for both
    freeze(family)
    view.begin(0, NOW)  # before the weights move
    assert view.nbytes == sum(sizes.values())
    nudge(family)
    assert torch.equal(seen(family, rollouts, "reference").logp, before)


def test_a_moved_tower_has_its_reference_features_computed_once_per_step() -> None:
    family = tiny("nano")
    view = family.declare("reference", FrozenPolicy())
    rollouts = rolled(family, ragged())
    nudge(family)
    view.begin(0, NOW)
    computed = family.pictures.computed
    for one in rollouts:
        seen(family, [one], "reference")
    assert family.pictures.computed - computed == 6


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_reference_follows_in_small_steps_and_resumes_bit_for_bit(dtype: str) -> None:
    options = FrozenPolicy(sync_every=2, mix=0.01)
    family, other = (tiny("nano", dtype=dtype) for _ in range(2))
    view, again = (f.declare("reference", options) for f in (family, other))
    rollouts = rolled(family, ragged())
    ready(other, ragged())
    name = "model.text_model.norm.weight"
    live = dict(family.model.named_parameters())[name]
    start = live.detach().float().clone()
    nudge(family)
    for step in range(1, 9):
        view.begin(0, Progress(step=step, total_steps=10))
        view.end(Progress(step=step, total_steps=10))
        if step == 1:
            assert "values" not in view.state()
    kept = view.kept  # type: ignore[attr-defined]
    expected = live.float() + 0.99**4 * (start - live.float())
    wide = kept._wide.get(name, kept.held[name])
    assert torch.allclose(wide, expected, atol=1e-6)  # in bfloat16 single moves would be rounded away
    state = view.state()
    again.restore(state)
    assert torch.equal(seen(other, rollouts, "reference").logp, seen(family, rollouts, "reference").logp)
    for one in (view, again):
        one.end(Progress(step=10, total_steps=10))
    # The second one moves towards other live weights: what it moves from is the same.
    assert again.kept.moves == view.kept.moves == 5  # type: ignore[attr-defined]


def test_a_reference_of_other_weights_is_refused() -> None:
    view = tiny("nano").declare("reference", FrozenPolicy())
    with pytest.raises(RecipeError, match="that the run began with"):
        tiny("nano", seed=1).declare("reference", FrozenPolicy()).restore(view.state())


def test_loading_a_checkpoint_does_not_move_the_reference(tmp_path: Path) -> None:
    family = tiny("nano")
    view = family.declare("reference", FrozenPolicy())
    rollouts = rolled(family, ragged())
    before = seen(family, rollouts).logp
    freeze(family, "vision", "connector")
    view.begin(0, NOW)  # the tower is shared now
    other = tiny("nano")
    nudge(other)
    other.save(tmp_path / "model")
    family.load(tmp_path / "model")
    assert torch.equal(seen(family, rollouts, "reference").logp, before)


# -- teachers ------------------------------------------------------------------------------------------------------------


def folder(kind: str, path: Path, seed: int = 0) -> str:
    return str(write(kind, path, seed))


def test_a_teacher_scores_the_same_ids_by_its_own_weights_and_pictures(tmp_path: Path) -> None:
    family, teacher = tiny("qwen"), tiny("qwen", seed=3)
    family.declare("teacher", FrozenPolicy(path=folder("qwen", tmp_path / "t", 3)))
    rollouts = rolled(family, ragged())
    ready(teacher, ragged())
    found = seen(family, rollouts, "teacher", "distribution")
    expected = seen(teacher, rollouts, "current", "distribution")
    assert torch.equal(found.logp, expected.logp)
    assert torch.equal(found.extras["distribution"], expected.extras["distribution"])
    assert (found.logp - seen(family, rollouts).logp).abs().max() > 0.01


def test_a_teacher_that_reads_other_ids_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"algo\.views\.teacher\.path .* another vocabulary .* is id "):
        tiny("qwen").declare("teacher", FrozenPolicy(path=folder("nano", tmp_path / "t")))
    with pytest.raises(RecipeError, match=r"algo\.views\.teacher\.path .* has no config\.json"):
        tiny("qwen").declare("teacher", FrozenPolicy(path=str(tmp_path)))


def test_a_teacher_whose_checkpoint_changed_is_refused(tmp_path: Path) -> None:
    states = []
    for seed in (1, 2):
        view = tiny("nano").declare("teacher", FrozenPolicy(path=folder("nano", tmp_path / "t", seed)))
        states.append(view)
    with pytest.raises(RecipeError, match="other weights than when the run began"):
        states[1].restore(states[0].state())


# -- corrupted -----------------------------------------------------------------------------------------------------------

CORRUPTIONS: list[dict[str, Any]] = [
    {"kind": "patches", "patch": 4},
    {"kind": "patches", "patch": 4, "grid": "processed"},
    {"kind": "blank"},
    {"kind": "blank", "colour": "black"},
    {"kind": "noise"},
    {"kind": "blur", "radius": 4.0},
    {"kind": "downscale", "factor": 8.0},
    {"kind": "swap"},
]


def corrupted(**options: Any) -> CorruptedPictures:
    return CorruptedPictures.model_validate(options)


@pytest.mark.parametrize("kind", sorted(TINY))
def test_other_pictures_before_the_same_tokens(kind: str) -> None:
    family = tiny(kind)
    rollouts = rolled(family, ragged())
    clean = seen(family, rollouts).logp
    row = family.pack(rollouts).trajectory
    blind = torch.tensor([not t.payload.media for t in rollouts])[row]
    for number, options in enumerate(CORRUPTIONS):
        view = family.declare(f"v{number}", corrupted(corruption=options))
        view.begin(0, NOW)
        found = seen(family, rollouts, f"v{number}").logp
        assert torch.equal(found[blind], clean[blind]), options
        assert (found - clean).abs()[~blind].max() > 1e-4, options
        assert torch.equal(seen(family, rollouts, f"v{number}").logp, found), options
    assert torch.equal(seen(family, rollouts).logp, clean)


def test_a_corruption_is_drawn_once_per_step_whatever_the_micro_batches() -> None:
    family = tiny("nano")
    freeze(family, "vision", "connector")
    view = family.declare("masked", MASKED)
    rollouts = rolled(family, ragged(), 3)
    view.begin(7, NOW)
    computed = family.pictures.computed
    together = seen(family, rollouts, "masked").logp
    assert family.pictures.computed - computed == 6
    apart = torch.cat([seen(family, [one], "masked").logp for one in rollouts])
    assert family.pictures.computed - computed == 6
    assert torch.allclose(together, apart, atol=1e-5)
    draws = {}
    for seed, step in ((7, 1), (7, 2), (8, 1)):
        view.begin(seed, Progress(step=step, total_steps=10))
        draws[seed, step] = seen(family, rollouts, "masked").logp
    assert torch.equal(draws[7, 1], together)
    assert not torch.equal(draws[7, 2], together)
    assert not torch.equal(draws[8, 1], together)


def test_only_a_view_with_gradient_moves_its_branch() -> None:
    family = tiny("nano")
    rollouts = rolled(family, [sample("one", picture())])
    view = family.declare("masked", corrupted(gradient=True))
    view.begin(0, NOW)
    batch = family.pack(rollouts)
    assert family.evaluate(batch, view="masked").logp.requires_grad
    family.evaluate(batch, view="masked").logp.sum().backward()
    for name in ("vision", "connector", "language"):
        grads = [p.grad for p in family.modules()[name].parameters()]
        assert any(g is not None and bool(g.any()) for g in grads), name


def test_a_view_says_what_it_could_not_corrupt() -> None:
    family = tiny("nano")
    samples = [sample("none", text="Read the number"), sample("one", picture())]
    rollouts = rolled(family, samples)
    view = family.declare("swapped", corrupted(corruption={"kind": "swap"}))
    view.begin(0, NOW)
    assert torch.equal(seen(family, rollouts, "swapped").logp, seen(family, rollouts).logp)
    found = {
        m.name: (m.mean, m.label("view"), m.label("source")) for m in view.metrics([family.pack(rollouts)])
    }
    assert found == {"view/unseen": (0.5, "swapped", "tiny"), "view/unchanged": (1.0, "swapped", "")}


def test_a_distribution_is_the_one_that_was_sampled_from() -> None:
    family = tiny("qwen")
    rollouts = rolled(family, ragged())
    found = seen(family, rollouts, "current", "distribution", "entropy")
    said = found.extras["distribution"]
    assert said.shape == (len(found.logp), family.head.weight.shape[0])
    assert torch.allclose(said.logsumexp(-1), torch.zeros(len(said)), atol=1e-5)
    ids = torch.from_numpy(
        np.concatenate([t.payload.arrays["ids"][t.payload.arrays["at"]] for t in rollouts])
    )
    assert torch.allclose(said.gather(1, ids.long()[:, None])[:, 0], found.logp, atol=1e-5)
    assert torch.allclose(torch.special.entr(said.exp()).sum(-1), found.entropy, atol=1e-4)
    assert bool(said[:, list(family.banned)].eq(float("-inf")).all())


# -- pixels --------------------------------------------------------------------------------------------------------------


class _Scene:
    def __init__(
        self, seed: int = 0, progress: Progress = NOW, processed: tuple[int, int] = (64, 64)
    ) -> None:
        self.rng, self.progress, self.processed = np.random.default_rng(seed), progress, processed
        self.other = lambda: None


def white(width: int, height: int) -> Image.Image:
    return Image.new("RGB", (width, height), (255, 255, 255))


def test_patches_are_black_squares_of_a_grid_at_the_asked_rate() -> None:
    made = np.asarray(Patches(patch=14, probability=0.6)(white(14 * 40, 14 * 40 + 5), _Scene()))  # type: ignore[arg-type]
    cells = made[:560, :560].reshape(40, 14, 40, 14, 3)
    assert set(np.unique(made)) == {0, 255}
    assert (cells == cells[:, :1, :, :1]).all()
    assert abs((cells[:, 0, :, 0, 0] == 0).mean() - 0.6) < 0.04
    # On the grid of the processed picture, which is half as large, a square covers 28 stored pixels.
    scene = _Scene(processed=(280, 280))
    made = np.asarray(Patches(patch=14, grid="processed")(white(560, 560), scene))  # type: ignore[arg-type]
    cells = made.reshape(20, 28, 20, 28, 3)
    assert (cells == cells[:, :1, :, :1]).all()
    for share, value in ((0.0, 255), (1.0, 0)):
        assert (np.asarray(Patches(probability=share)(white(30, 20), _Scene())) == value).all()  # type: ignore[arg-type]


def test_noise_falls_from_its_start_to_nothing() -> None:
    noise = Noise()
    at = [noise.strength(Progress(step=s, total_steps=1000)) for s in range(1001)]
    assert at[0] == pytest.approx(500, abs=4)
    assert at[500] == 250
    assert at[-1] == pytest.approx(0, abs=4)
    assert all(a > b for a, b in pairwise(at))
    assert Noise(start=1000, steepness=1000).strength(Progress(step=0, total_steps=1)) == 999
    # Figures that others give of this schedule: a std of .15 at 250, .41 at 450, .50 at 500, in units of pixel values.
    assert [round(float((1 - alpha_bar()[t]) ** 0.5), 2) for t in (250, 450, 500)] == [0.15, 0.41, 0.51]
    grey = Image.new("RGB", (200, 200), (128, 128, 128))
    made = np.asarray(noise(grey, _Scene(progress=Progress(step=5, total_steps=10))), np.float64)  # type: ignore[arg-type]
    assert made.std() / 255 == pytest.approx(0.147, abs=0.003)
    assert made.mean() == pytest.approx(128 * (1 - 0.147**2) ** 0.5, abs=0.5)


def test_a_processor_that_makes_other_tokens_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class Larger(Patches):
        def __call__(self, image: Image.Image, scene: Any) -> Image.Image:
            return image.resize((image.width * 4, image.height * 4))

    family = tiny("qwen")
    rollouts = rolled(family, [sample("one", picture())])
    view = family.declare("large", CorruptedPictures.model_construct(corruption=Larger()))
    view.begin(0, NOW)
    with pytest.raises(Exception, match="in view 'large'"):
        seen(family, rollouts, "large")


def test_the_same_view_declared_again_is_the_one_that_is_held() -> None:
    family = tiny("nano")
    views: list[ViewOptions] = [FrozenPolicy(), MASKED]
    for number, view in enumerate(views):
        assert family.declare(f"v{number}", view) is family.declare(f"v{number}", view.model_copy())
    # A stage may have a reference follow: it is still that of the start.
    rollouts = rolled(family, ragged())
    before = seen(family, rollouts).logp
    nudge(family)
    held = family.declare("v0", FrozenPolicy(sync_every=1, mix=0.5))
    assert held is family.declare("v0", FrozenPolicy())
    assert torch.equal(seen(family, rollouts, "v0").logp, before)


def test_adapters_have_a_reference_of_their_own_size() -> None:
    family = LanguageFamily(tiny("nano").model, tiny("nano").processor, LanguageOptions(lora={"rank": 2}))
    view = family.declare("reference", FrozenPolicy())
    assert view.nbytes == sum(p.nbytes for m in family.modules().values() for p in m.parameters())
    assert isinstance(picture(), Media)


def test_the_memory_estimate_counts_copies_passes_with_gradient_and_distributions() -> None:
    def estimated(**algo: Any) -> Memory:
        family, plan = tiny("nano"), recipe(algo=algo)
        samples = [sample("one", picture())]
        groups = talker(ready(family, samples), max_tokens=6).generate(samples, demand(2))
        learner = Learner(family, plan, exact=True)
        return estimate(family, plan, [e for group in groups for e in group], learner.views)

    plain = estimated()
    held = estimated(views={"reference": {"kind": "frozen"}}, terms=[{"kind": "kl", "form": "k2"}])
    assert (plain.views, held.views) == (0, plain.weights)
    assert held.total - plain.total == plain.weights
    assert held.available is None or plain.available is None or held.available > 0
    live = {"masked": {"kind": "corrupted", "gradient": True}}
    once, twice, full = (
        estimated(
            views={"masked": {**live["masked"], "gradient": gradient}},
            terms=[{"kind": "perception_kl", "form": form}],
        )
        for gradient, form in ((False, "k3"), (True, "k3"), (True, "full"))
    )
    assert once.per_token == plain.per_token
    assert twice.per_token == pytest.approx(2 * plain.per_token, abs=2)
    assert full.per_token > twice.per_token
