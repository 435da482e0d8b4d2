"""Truths by enumeration, heads that change nothing at first, bounds below the truth, controls near theirs, files."""

import itertools
import json
import math
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import entr
from torch import Tensor
from torch.nn import functional as F

from pipeline import params
from pipeline.dependence import conditional, price
from pipeline.dependence import conditional_calibration as made
from pipeline.lm import conditioning, deepen, depth
from pipeline.lm import model as language_model
from pipeline.lm.conditioning import TextStates
from pipeline.lm.depth import FROZEN, OWN, Head, Steps
from pipeline.lm.model import LanguageModel, ModelShape, cross_entropy
from pipeline.lm.train import Split
from pipeline.statistics import Estimate

K, C, T, D = 3, 16, 20, 8
SETTINGS = params.load(Path("params.yaml")).dependence
RECIPE = SETTINGS.conditional.model_copy(update={"steps": 120, "batch_size": 512, "rank": 16})


def recipe(**changes: object) -> params.Dependence:
    return SETTINGS.model_copy(update={"bootstrap": 20, "conditional": RECIPE.model_copy(update=changes)})


def frozen(table: Tensor) -> depth.Frozen:
    return lambda hidden: F.linear(hidden, table.flatten(1).T).unflatten(1, table.shape[1:])


def process(shared: float, clips: int, seed: int) -> Steps:
    codes, regime = made.draw(clips, T, K, C, shared, np.random.default_rng(seed))
    return made._steps(codes, regime, min(made.GROUPS, C))


def language_model_of(pattern: str) -> LanguageModel:
    torch.manual_seed(0)
    model = LanguageModel(ModelShape(pattern, K, C, T, D, width=16, heads=2, layers=1, feedforward=32, dropout=0.0))
    model.heads.data.normal_()
    return model.eval()


def text_states() -> TextStates:
    states = torch.randn(5, D, generator=torch.Generator().manual_seed(0)).half()
    return TextStates(states, torch.tensor([0, 2, 5]), ["slow", "fast"])


def split_of(clips: int) -> Split:
    generator = np.random.default_rng(0)
    names = np.arange(clips).astype(str)
    codes = generator.integers(C, size=(clips, K, T)).astype(np.uint16)
    return Split(codes, generator.integers(2, size=(clips, 1)), names, names)


@given(shared=st.floats(0, 1), masses=st.lists(st.floats(0.05, 1), min_size=2, max_size=4), codebooks=st.integers(1, 3))
def test_the_total_correlation_is_that_of_the_enumerated_joint(
    shared: float, masses: list[float], codebooks: int
) -> None:
    p = np.array(masses) / sum(masses)
    joint = np.zeros((len(p),) * codebooks)
    for draws in itertools.product(range(len(p)), repeat=codebooks):
        alike = shared * p[draws[0]] * (len(set(draws)) == 1)
        joint[draws] = alike + (1 - shared) * math.prod(p[d] for d in draws)
    assert joint.sum() == pytest.approx(1)
    expected = (codebooks * entr(p).sum() - entr(joint).sum()) / math.log(2)
    assert made.total_correlation(p, shared, codebooks) == pytest.approx(expected, abs=1e-9)


def test_draws_have_the_conditional_total_correlation_that_is_stated() -> None:
    """Counted on few codes: within each regime the sum of entropies minus the joint entropy, plug-in."""
    codebooks, size, shared = 2, 4, 0.6
    codes, regime = made.draw(400, 1000, codebooks, size, shared, np.random.default_rng(0))
    found = []
    for r in range(size):
        rows = codes.transpose(1, 0, 2)[:, regime == r]
        joint = np.bincount(rows[0] * size + rows[1], minlength=size**2).reshape(size, size) / rows.shape[1]
        found.append((entr(joint.sum(0)).sum() + entr(joint.sum(1)).sum() - entr(joint).sum()) / math.log(2))
    assert found[1::2] == pytest.approx([0, 0], abs=1e-3)
    assert np.mean(found) == pytest.approx(made.truth(size, shared, codebooks), abs=3e-3)
    assert np.bincount(regime.ravel(), minlength=size) / regime.size == pytest.approx([0.25] * size, abs=0.01)
    np.testing.assert_array_equal(regime[:, 1:], codes[:, 0, :-1])  # the past tells the regime


def test_the_exact_model_costs_the_entropy_of_each_codebook() -> None:
    steps = process(0.5, 500, 0)
    table = made.exact(K, C)
    torch.testing.assert_close(table.exp().sum(dim=2), torch.ones(len(table), K))
    found = depth.bits(frozen(table), steps, {}, {})[FROZEN].mean(axis=0)
    assert found == pytest.approx([entr(made.masses(C)).sum() / math.log(2)] * K, abs=0.03)


def test_codes_that_no_group_holds_have_no_mass() -> None:
    table = made.exact(2, 100)  # 32 groups of 3 codes
    assert (table[..., 96:] == -torch.inf).all()
    torch.testing.assert_close(table.exp().sum(dim=2), torch.ones(32, 2))


@pytest.mark.parametrize("pattern", ["parallel", "delay", "partial-delay"])
def test_untrained_heads_leave_the_model_as_it_is(pattern: str) -> None:
    """Steps that hold all codebooks, and the bits of the model itself there, from its own logits."""
    model, split, text = language_model_of(pattern), split_of(5), text_states()
    steps = deepen.full_steps(model, split, text)
    layout = model.pattern(T)
    shown = conditional.views(steps.codes, steps.clips, 0)
    generator = torch.Generator().manual_seed(0)
    heads = {name: [Head(len(s), C, 16, 4, generator) for s in view.sees.values()] for name, view in shown.items()}
    found = depth.bits(lambda h: model.logits(h, slice(None)), steps, heads, shown)
    np.testing.assert_allclose(found[OWN], found[FROZEN][:, 1:], rtol=1e-6)
    np.testing.assert_allclose(found["copied"], found[FROZEN][:, :1], rtol=1e-6)
    with torch.no_grad():
        nats = cross_entropy(
            model(split.codes(slice(None)), *text.batch(split.captions[:, 0])), split.codes(slice(None))
        )
    full = layout.mask.all(dim=0)[layout.step]
    expected = torch.stack([nats[:, k, full[k]].mean(dim=1) for k in range(K)], dim=1) / math.log(2)
    np.testing.assert_allclose(found[FROZEN], expected.numpy(), rtol=1e-4)


def test_a_head_computes_its_formula() -> None:
    generator = torch.Generator().manual_seed(0)
    head = Head(2, C, 5, 3, generator)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, generator=generator)
    hidden, codes = torch.randn(4, 5, generator=generator), torch.randint(C, (2, 4), generator=generator)
    logits = torch.randn(4, C, generator=generator)
    found = head(logits, hidden, codes)
    for n in range(4):
        seen = head.embedding[0, codes[0, n]] + head.embedding[1, codes[1, n]]
        torch.testing.assert_close(found[n], logits[n] + head.output @ (seen * (1 + head.gate @ hidden[n])))


def test_controls_see_codes_of_elsewhere() -> None:
    clips, steps = 7, 12
    place = torch.arange(clips * steps).expand(K, -1)  # each code says where it stands
    shown = conditional.views(place, clips, 0)
    here, other, far = (shown[name].codes[0] for name in (OWN, "other_clip", "other_frame"))
    assert (other // steps != here // steps).all()
    assert (far // steps == here // steps).all()
    assert ((far - here).abs() >= steps // 4).all()
    assert {name: view.sees for name, view in shown.items()} == {
        OWN: {1: [0], 2: [0, 1]},
        "other_clip": {2: [0, 1]},
        "other_frame": {2: [0, 1]},
        "copied": {0: [0]},
    }


def test_the_price_of_a_made_process_is_below_the_truth_and_near_it() -> None:
    """A strong case; and controls whose truth is 0, or all of a codebook's bits."""
    shared = 0.8
    train, test = process(shared, 2000, 0), process(shared, 400, 1)
    settings = recipe(steps=300, batch_size=1024)
    found = conditional.measure(frozen(made.exact(K, C)), train, test, np.arange(400) // 4, settings, 0.95)
    truth, paid = made.truth(C, shared, K), found["price"]
    assert 0.8 * truth < paid["value"] < truth
    assert paid["value"] == pytest.approx(found["bits_factorised"]["value"] - found["bits_with_head"]["value"])
    assert paid["value"] == pytest.approx(sum(each["value"] for each in found["by_codebook"]))
    assert paid["low"] < paid["value"] < paid["high"]
    controls = found["controls"]
    for name in ("other_clip", "other_frame"):
        assert controls[name]["truth"] == 0
        assert -0.05 < controls[name]["value"] < 0.01
    assert 0.95 * controls["copied"]["truth"] < controls["copied"]["value"] < controls["copied"]["truth"]
    assert [point["steps"] for point in found["curve"]] == [75, 150, 300]
    assert found["curve"][-1]["value"] == paid["value"]
    assert (found["clips"], found["tracks"], found["steps"], found["train_clips"]) == (400, 100, 400 * T, 2000)


def test_the_seed_decides_every_bit_and_no_head_disturbs_another() -> None:
    train, model = process(0.5, 40, 0), frozen(made.exact(K, C))
    settings = RECIPE.model_copy(update={"steps": 8, "warmup_steps": 2, "batch_size": 64})
    shown = conditional.views(train.codes, train.clips, 0)

    def weights(views: dict[str, depth.View], seed: int) -> list[Tensor]:
        heads, _ = depth.fit(model, train, views, settings, seed)
        return [parameter for head in heads[OWN] for parameter in head.parameters()]

    once, again, alone, other = (
        weights(views, seed) for views, seed in ((shown, 0), (shown, 0), ({OWN: shown[OWN]}, 0), (shown, 1))
    )
    assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(once, alone, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(once, other, strict=True))


@pytest.mark.parametrize("pattern", ["flatten", "partial-flatten", "coarse-first"])
def test_a_pattern_without_full_steps_is_named(pattern: str) -> None:
    with pytest.raises(ValueError, match=f"no step of pattern '{pattern}' holds"):
        deepen.full_steps(language_model_of(pattern), split_of(2), text_states())


def test_one_clip_has_no_other() -> None:
    with pytest.raises(ValueError, match="controls need 2 clips of 2 steps or more, got 1 of 20"):
        conditional.views(torch.zeros(K, 20, dtype=torch.long), 1, 0)


def _write(folder: Path, pattern: str = "parallel") -> list[str]:
    """A language model, text states, tokens, a manifest and the command's arguments."""
    generator = np.random.default_rng(0)
    clips = {"train": 8, "validation": 4, "test": 6}
    (folder / "tokens").mkdir()
    for split, count in clips.items():
        np.save(folder / "tokens" / f"{split}.npy", generator.integers(C, size=(count, K, T)).astype(np.uint16))
    rows = [(f"{split}{i}", f"{split}{i // 2}", split, "slow") for split, count in clips.items() for i in range(count)]
    pd.DataFrame(rows, columns=["clip_id", "track_id", "split", "caption_0"]).to_parquet(folder / "m.parquet")
    language_model.save(language_model_of(pattern), folder / "lm")
    conditioning.save(text_states(), folder / "text")
    whole = params.load(Path("params.yaml")).model_dump(mode="json")
    whole["codec"] |= {"codebook_size": C, "codebooks": K}
    quick = {"clips": 6, "steps": 8, "batch_size": 32, "warmup_steps": 2}
    whole["dependence"] |= {"bootstrap": 5, "conditional": whole["dependence"]["conditional"] | quick}
    places = {"lm": "lm", "tokens": "tokens", "manifest": "m.parquet", "text": "text", "out": "out.json"}
    files = [word for name, place in places.items() for word in (f"--{name}", str(folder / place))]
    return ["--params", json.dumps(whole), *files]


@pytest.mark.parametrize(("pattern", "steps"), [("parallel", T), ("delay", T - K + 1)])
def test_main_writes_the_same_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pattern: str, steps: int) -> None:
    monkeypatch.setattr(sys, "argv", ["price", *_write(tmp_path, pattern)])
    monkeypatch.chdir(tmp_path)
    price.main()
    written = (tmp_path / "out.json").read_bytes()
    found = json.loads(written)
    assert (found["pattern"], found["steps"], found["clips"], found["tracks"]) == (pattern, 6 * steps, 6, 3)
    assert found["train_steps"] == 6 * steps
    assert len(found["price"]["resamples"]) == 5
    assert len(found["by_codebook"]) == K - 1
    price.main()
    assert (tmp_path / "out.json").read_bytes() == written


def test_main_calibrates_at_the_studys_own_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    split = ["train"] * 40 + ["test"] * 10
    pd.DataFrame({"split": split}).to_parquet(tmp_path / "m.parquet")
    whole = params.load(Path("params.yaml")).model_dump(mode="json")
    whole["codec"] |= {"codebook_size": C, "codebooks": K}
    quick = {"clips": 30, "steps": 8, "batch_size": 64, "warmup_steps": 2, "shared": [0.0, 0.5]}
    whole["dependence"] |= {"bootstrap": 5, "conditional": whole["dependence"]["conditional"] | quick}
    argv = ["--params", json.dumps(whole), "--manifest", "m.parquet", "--out", "out.json"]
    monkeypatch.setattr(sys, "argv", ["calibration", *argv])
    monkeypatch.chdir(tmp_path)
    made.main()
    written = json.loads((tmp_path / "out.json").read_text())
    assert written["clips"] == {"train": 30, "test": 10}
    assert written["frames"] == 250
    assert [each["truth"] for each in written["processes"]] == [made.truth(C, shared, K) for shared in (0.0, 0.5)]
    for each in written["processes"]:
        measured = Estimate(**each["measured"], resamples=np.empty(0))
        assert each["bias"] == pytest.approx(measured.value - each["truth"])
        assert measured.low <= measured.value <= measured.high
