"""Codebook patterns against a slow reference, and their properties at every length."""

import sys
from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline import params
from pipeline.lm.patterns import Pattern, crops, pattern

names = st.sampled_from(sorted(params.choices("PATTERNS")))
codebooks = st.integers(1, 5)
frames = st.integers(0, 7)


def slow_layout(name: str, codebooks: int, frames: int) -> list[list[tuple[int, int]]]:
    """Tokens (codebook, frame) of each step, written out step by step."""
    everything, fine = range(codebooks), range(1, codebooks)
    if name == "parallel":
        layout = [[(k, t) for k in everything] for t in range(frames)]
    elif name == "flatten":
        layout = [[(k, t)] for t in range(frames) for k in everything]
    elif name == "partial-flatten":
        layout = [tokens for t in range(frames) for tokens in ([(0, t)], [(k, t) for k in fine])]
    elif name in ("coarse-first", "valle"):
        layout = [[(0, t)] for t in range(frames)] + [[(k, t) for k in fine] for t in range(frames)]
    else:
        delays = [k if name == "delay" else min(k, 1) for k in everything]
        layout = [
            [(k, s - delays[k]) for k in everything if 0 <= s - delays[k] < frames] for s in range(frames + codebooks)
        ]
    return [tokens for tokens in layout if tokens]


@given(names, codebooks, frames)
def test_layout_is_the_slow_reference(name: str, codebooks: int, frames: int) -> None:
    layout = pattern(name, codebooks, frames)
    reference = slow_layout(name, codebooks, frames)
    assert layout.steps == len(reference)
    for step, tokens in enumerate(reference):
        assert [tuple(pair) for pair in (layout.step == step).nonzero().tolist()] == tokens
        assert layout.mask[:, step].nonzero().flatten().tolist() == [k for k, _ in tokens]


@given(names, codebooks, frames)
def test_every_token_stands_exactly_once(name: str, codebooks: int, frames: int) -> None:
    codes = torch.arange(codebooks * frames).view(1, codebooks, frames)
    layout = pattern(name, codebooks, frames)
    laid = layout.lay_out(codes, special=-1)
    assert sorted(laid[laid >= 0].tolist()) == codes.flatten().tolist()
    assert torch.equal(laid[0] >= 0, layout.mask)


@given(names, codebooks, frames, st.integers(0, 3))
def test_round_trip(name: str, codebooks: int, frames: int, batch: int) -> None:
    codes = torch.randint(9, (batch, codebooks, frames), generator=torch.Generator().manual_seed(0))
    layout = pattern(name, codebooks, frames)
    assert torch.equal(layout.collect(layout.lay_out(codes, special=9)), codes)


@given(names, codebooks, frames)
def test_causal_a_token_comes_after_its_codebooks_past_and_no_frame_is_overtaken(
    name: str, codebooks: int, frames: int
) -> None:
    step = pattern(name, codebooks, frames).step
    assert (step.diff(dim=1) > 0).all()
    assert (step.diff(dim=0) >= 0).all()


@given(codebooks, frames)
def test_flatten_is_the_joint_model_one_token_a_step(codebooks: int, frames: int) -> None:
    assert pattern("flatten", codebooks, frames).mask.sum(dim=0).eq(1).all()


BY_HAND = {
    "parallel": [[1, 2], [3, 4], [5, 6]],
    "delay": [[1, 2, 0, 0], [0, 3, 4, 0], [0, 0, 5, 6]],
    "partial-delay": [[1, 2, 0], [0, 3, 4], [0, 5, 6]],
    "flatten": [[1, 0, 0, 2, 0, 0], [0, 3, 0, 0, 4, 0], [0, 0, 5, 0, 0, 6]],
    "partial-flatten": [[1, 0, 2, 0], [0, 3, 0, 4], [0, 5, 0, 6]],
    "coarse-first": [[1, 2, 0, 0], [0, 0, 3, 4], [0, 0, 5, 6]],
    "valle": [[1, 2, 0, 0], [0, 0, 3, 4], [0, 0, 5, 6]],
}


@pytest.mark.parametrize("name", BY_HAND)
def test_patterns_by_hand(name: str) -> None:
    codes = torch.tensor([[[1, 2], [3, 4], [5, 6]]])
    assert pattern(name, 3, 2).lay_out(codes, special=0).tolist() == [BY_HAND[name]]


@pytest.mark.parametrize(
    ("name", "steps"),
    [
        ("delay", 1500),
        ("partial-delay", 1500),
        ("parallel", 1500),
        ("partial-flatten", 3000),
        ("coarse-first", 3000),
        ("flatten", 6000),
    ],
)
def test_steps_of_30_seconds_are_those_of_musicgens_table(name: str, steps: int) -> None:
    """Which leaves out the few that delays add."""
    assert steps <= pattern(name, 4, 1500).steps < steps + 4


@pytest.mark.parametrize("rule", [lambda k, t, codebooks, frames: t // 2 + k, lambda k, t, codebooks, frames: t - 1])
def test_a_rule_under_which_tokens_collide_is_named(rule: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(params, "choice", lambda table, name: rule)
    with pytest.raises(ValueError, match="pattern 'broken' has a step below 0, or two frames of one codebook"):
        pattern("broken", 2, 4)


def test_another_module_may_have_a_table_of_patterns(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("pipeline.lm.slow")
    module.PATTERNS = {"slow": lambda k, t, codebooks, frames: 2 * t}  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(params, "choices", lambda table: {"slow": module.__name__})
    assert pattern("slow", 2, 3).step.tolist() == [[0, 2, 4], [0, 2, 4]]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("zigzag", 4, 10), "'zigzag' is not one of parallel, delay"),
        (("delay", 0, 10), "K=0"),
        (("delay", 4, -1), "T=-1"),
    ],
)
def test_bad_arguments_are_named(arguments: tuple, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        pattern(*arguments)


def test_tokens_of_another_shape_are_named() -> None:
    with pytest.raises(ValueError, match=r"codes must be \[B, K, T\] with K, T = \(2, 3\), got \(1, 2, 4\)"):
        pattern("delay", 2, 3).lay_out(torch.zeros(1, 2, 4, dtype=torch.long), special=0)
    with pytest.raises(ValueError, match=r"laid must be \[B, K, S\]"):
        pattern("delay", 2, 3).collect(torch.zeros(1, 2, 3, dtype=torch.long))


@pytest.mark.parametrize("name", sorted(params.choices("PATTERNS")))
def test_crops_are_the_steps_of_their_frames(name: str) -> None:
    layout, frames = pattern(name, 3, 9), 4
    found = crops(layout, frames)
    assert len(found.steps) == len(found.place) == 9 - frames + 1
    for start, (steps, place) in enumerate(zip(found.steps, found.place, strict=True)):
        window = layout.step[:, start : start + frames]
        assert steps.tolist() == sorted(set(window.flatten().tolist()))
        assert torch.equal(steps[place], window)


def test_crops_of_unequal_length_are_refused() -> None:
    uneven = Pattern(torch.tensor([[0, 1, 2, 3], [0, 1, 4, 5]]))
    with pytest.raises(ValueError, match=r"set lm\.crop_seconds to 0"):
        crops(uneven, 2)
