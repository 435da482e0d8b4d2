"""Codebook patterns: which token, (codebook, frame), is predicted at which step (MusicGen, section 2.2).

A pattern is data, one array of steps `[K, T]`; laying tokens out, the inverse and the mask follow from it alone.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from pipeline import params

# Step of codebook k `[K, 1]` at frame t `[1, T]`, given K and T.
Rule = Callable[[Tensor, Tensor, int, int], Tensor]


class Crops(NamedTuple):
    """Every crop of n frames of a clip, by the frame t0 at which it starts."""

    steps: Tensor  # [T - n + 1, S], int64: the clip's steps at which a token of the crop stands, in order
    place: Tensor  # [T - n + 1, K, n], int64: which of these each of its tokens has


@dataclass(frozen=True, eq=False)
class Pattern:
    """Step at which each token is predicted, independently of the others of its step, given all earlier steps."""

    step: Tensor  # [K, T], int64; no step holds two tokens of one codebook

    @property
    def steps(self) -> int:
        """Number of steps S; 0 for no frames."""
        return int(self.step.max()) + 1 if self.step.numel() else 0

    @functools.cached_property
    def mask(self) -> Tensor:
        """Where a token stands, `[K, S]`, bool; a special token fills the rest."""
        mask = torch.zeros(len(self.step), self.steps, dtype=torch.bool)
        return mask.scatter_(1, self.step, True)

    @functools.cached_property
    def places(self) -> Tensor:
        """Frame and codebook of each step's one token, `[S, 2]`, int64.

        Raises:
            ValueError: a step holds several tokens.
        """
        if self.steps < self.step.numel():
            raise ValueError("its steps hold several codebooks; take one with a token a step, such as flatten")
        codebook, frame = (x.flatten() for x in torch.meshgrid(*map(torch.arange, self.step.shape), indexing="ij"))
        return torch.stack([frame, codebook], dim=1)[self.step.flatten().argsort()]

    def lay_out(self, codes: Tensor, special: int) -> Tensor:
        """Tokens by frame to tokens by step, `[B, K, T]` -> `[B, K, S]`, with `special` where nothing stands."""
        _check(codes, "codes", self.step.shape, "[B, K, T]")
        laid = codes.new_full((*codes.shape[:2], self.steps), special)
        return laid.scatter_(2, self.step.to(codes.device).expand_as(codes), codes)

    def collect(self, laid: Tensor) -> Tensor:
        """Tokens by step to tokens by frame, `[B, K, S]` -> `[B, K, T]`: the inverse of `lay_out`."""
        _check(laid, "laid", self.mask.shape, "[B, K, S]")
        return laid.gather(2, self.step.to(laid.device).expand(len(laid), -1, -1))


@functools.lru_cache(maxsize=8)
def crops(layout: Pattern, frames: int) -> Crops:
    """All crops of `frames` neighbouring frames.

    Raises:
        ValueError: they differ in their number of steps, so that no batch of them can be made.
    """
    windows = layout.step.unfold(1, frames, 1).unbind(1)
    steps, place = zip(*(window.unique(return_inverse=True) for window in windows), strict=True)
    if len({len(each) for each in steps}) > 1:
        raise ValueError("under this pattern crops differ in their number of steps: set lm.crop_seconds to 0")
    return Crops(torch.stack(steps), torch.stack(place))


def pattern(name: str, codebooks: int, frames: int) -> Pattern:
    """The pattern `name` for K = `codebooks` and T = `frames`; codebooks and frames count from 0.

    As MusicGen has them (figure 1, and the ablation of section 4):

    - `parallel`: all codebooks of frame t at step t; T steps.
    - `delay`: codebook k of frame t at step t + k; T + K - 1 steps.
    - `partial-delay`: the first codebook at step t, all others one step later; T + 1 steps.
    - `flatten`: codebook k of frame t at step K t + k; K T steps, and no two tokens share one: the exact joint model.
    - `partial-flatten`: two steps a frame, the first codebook and then all others; 2 T steps.
    - `coarse-first`: the first codebook of all frames, then all others frame by frame; 2 T steps. Fine tokens see all
      of the coarse ones, so that a model must generate the length on which it was trained.
    - `valle`: what figure 1 names after VALL-E, and the ablation `coarse-first`: one pattern with two names.

    Raises:
        ValueError: an unknown name, no codebook, a negative number of frames, or a rule under which tokens collide.
    """
    rule: Rule = params.choice("PATTERNS", name)
    if codebooks < 1 or frames < 0:
        raise ValueError(f"a pattern needs K >= 1 codebooks and T >= 0 frames, got K={codebooks}, T={frames}")
    k, t = torch.arange(codebooks)[:, None], torch.arange(frames)[None]
    step = rule(k, t, codebooks, frames).expand(codebooks, frames).contiguous()
    if step.numel() and (int(step.min()) < 0 or bool((step.sort(dim=1).values.diff(dim=1) == 0).any())):
        raise ValueError(
            f"pattern '{name}' has a step below 0, or two frames of one codebook at one step: mend its rule"
        )
    return Pattern(step)


def _coarse_first(k: Tensor, t: Tensor, codebooks: int, frames: int) -> Tensor:
    return t + frames * k.clamp_max(1)


PATTERNS: dict[str, Rule] = {
    "parallel": lambda k, t, codebooks, frames: t,
    "delay": lambda k, t, codebooks, frames: t + k,
    "partial-delay": lambda k, t, codebooks, frames: t + k.clamp_max(1),
    "flatten": lambda k, t, codebooks, frames: codebooks * t + k,
    "partial-flatten": lambda k, t, codebooks, frames: min(codebooks, 2) * t + k.clamp_max(1),
    "coarse-first": _coarse_first,
    "valle": _coarse_first,
}


def _check(tokens: Tensor, name: str, expected: torch.Size, shape: str) -> None:
    if tokens.ndim != 3 or tokens.shape[1:] != expected:
        raise ValueError(f"{name} must be {shape} with {shape[4:-1]} = {tuple(expected)}, got {tuple(tokens.shape)}")
