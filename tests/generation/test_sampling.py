"""Sampling: the cache against the uncached model, clips apart from their batch, top-k, guidance, and a whole run."""

from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.generation.sampling import clip_uniforms, extend, generate, guide, sample
from pipeline.lm.model import LanguageModel, ModelShape
from pipeline.lm.patterns import PATTERNS

K, C, T, D = 3, 11, 7, 8
PLAIN: dict[str, Any] = {"guidance_scale": 1.0, "top_k": 1, "temperature": 1.0}


def model_of(pattern: str) -> LanguageModel:
    torch.manual_seed(0)
    model = LanguageModel(ModelShape(pattern, K, C, T, D, width=16, heads=2, layers=2, feedforward=32, dropout=0.0))
    model.heads.data.normal_()
    return model.eval()


def texts(clips: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(2, 6, (clips,), generator=generator)
    return torch.randn(clips, 5, D, generator=generator), torch.arange(5) < lengths[:, None]


def uniforms(clips: int) -> Tensor:
    return clip_uniforms([f"clip-{i}" for i in range(clips)], 0, K, T)


def greedy_uncached(model: LanguageModel, text: Tensor, mask: Tensor, scale: float) -> Tensor:
    """The whole model anew for every step."""
    layout = model.pattern(T)
    codes = torch.zeros(len(text), K, T, dtype=torch.long)
    for step in range(layout.steps):
        conditional, null = model(codes, text, mask), model(codes, text, torch.zeros_like(mask))
        now = layout.step == step
        codes[:, now] = (null + scale * (conditional - null)).argmax(dim=-1)[:, now]
    return codes


@pytest.mark.parametrize("scale", [1.0, 3.0])
@pytest.mark.parametrize("name", sorted(PATTERNS))
def test_cached_generation_is_the_uncached_one(name: str, scale: float) -> None:
    model, (text, mask) = model_of(name), texts(3)
    cached = generate(model, text, mask, frames=T, uniforms=uniforms(3), guidance_scale=scale, top_k=1, temperature=1.0)
    assert torch.equal(cached, greedy_uncached(model, text, mask, scale))
    assert len(cached.unique()) > 3


@pytest.mark.parametrize("name", sorted(PATTERNS))
def test_a_clip_is_the_same_in_every_batch(name: str) -> None:
    model, (text, mask), noise = model_of(name), texts(5), uniforms(5)
    how: dict[str, Any] = {"frames": T, "guidance_scale": 2.0, "top_k": 6, "temperature": 0.9}
    together = generate(model, text, mask, uniforms=noise, **how)
    order = torch.tensor([4, 2, 0, 1, 3])
    shuffled = generate(model, text[order], mask[order], uniforms=noise[order], **how)
    assert torch.equal(shuffled, together[order])
    for i in range(5):
        alone = generate(model, text[i : i + 1], mask[i : i + 1], uniforms=noise[i : i + 1], **how)
        assert torch.equal(alone[0], together[i])


@pytest.mark.parametrize("frames", [0, 1, 2])
@pytest.mark.parametrize("name", sorted(PATTERNS))
def test_short_clips(name: str, frames: int) -> None:
    codes = generate(model_of(name), *texts(2), frames=frames, uniforms=torch.zeros(2, K, frames), **PLAIN)
    assert codes.shape == (2, K, frames)
    assert ((codes >= 0) & (codes < C)).all()


@pytest.mark.parametrize("frames", [0, 1, 3, T])
@pytest.mark.parametrize("name", sorted(PATTERNS))
def test_a_prompt_is_kept_and_continued_as_the_model_would_have_gone_on(name: str, frames: int) -> None:
    """What was generated, given back in part, leads to the same rest: filled in at once or drawn step by step."""
    model, (text, mask), noise = model_of(name), texts(3), uniforms(3)
    how: dict[str, Any] = {"frames": T, "uniforms": noise, "guidance_scale": 2.0, "top_k": 6, "temperature": 0.9}
    whole = generate(model, text, mask, **how)
    continued = generate(model, text, mask, **how, prompt=whole[:, :, :frames])
    assert torch.equal(continued[:, :, :frames], whole[:, :, :frames])
    assert torch.equal(continued, whole)
    other = generate(model, text, mask, **how, prompt=(whole[:, :, :frames] + 1) % C)
    assert torch.equal(other[:, :, :frames], (whole[:, :, :frames] + 1) % C)
    assert frames in (0, T) or not torch.equal(other[:, :, frames:], whole[:, :, frames:])


@pytest.mark.parametrize("name", sorted(PATTERNS))
def test_longer_music_is_windows_that_overlap(name: str) -> None:
    model, (text, mask) = model_of(name), texts(2)
    noise = clip_uniforms(["a", "b"], 0, K, 17)
    how: dict[str, Any] = {"guidance_scale": 2.0, "top_k": 6, "temperature": 0.9}
    long = extend(model, text, mask, frames=17, overlap=3, uniforms=noise, **how)
    assert long.shape == (2, K, 17)
    expected = generate(model, text, mask, frames=T, uniforms=noise[:, :, :T], **how)
    for start in (4, 8):
        window = noise[:, :, start : start + T]
        grown = generate(model, text, mask, frames=T, uniforms=window, prompt=expected[:, :, start:], **how)
        expected = torch.cat([expected[:, :, :start], grown], dim=2)
    assert torch.equal(long[:, :, :15], expected)
    again = extend(model, text, mask, frames=17, overlap=3, uniforms=noise, prompt=long[:, :, :9], **how)
    assert torch.equal(again[:, :, :9], long[:, :, :9])
    short = extend(model, text, mask, frames=T, overlap=3, uniforms=noise[:, :, :T], **how)
    assert torch.equal(short, long[:, :, :T])


def test_an_overlap_or_prompt_that_does_not_fit_is_named() -> None:
    model = model_of("delay")
    with pytest.raises(ValueError, match=r"overlap must be from 0 to 6 frames"):
        extend(model, *texts(2), frames=9, overlap=T, uniforms=torch.zeros(2, K, 9), **PLAIN)
    prompt = torch.zeros(2, K, 8, dtype=torch.long)
    with pytest.raises(ValueError, match=r"prompt must be \(2, 3\) and at most 7, got \(2, 3, 8\)"):
        generate(model, *texts(2), frames=T, uniforms=torch.zeros(2, K, T), prompt=prompt, **PLAIN)


def test_uniforms_of_another_shape_are_named() -> None:
    with pytest.raises(ValueError, match=r"uniforms must be \(2, 3, 7\), got \(2, 3, 6\)"):
        generate(model_of("delay"), *texts(2), frames=T, uniforms=torch.zeros(2, K, 6), **PLAIN)


def test_names_alone_decide_a_clips_numbers() -> None:
    first, second = clip_uniforms(["a", "b"], 0, K, T), clip_uniforms(["b"], 0, K, T)
    assert torch.equal(first[1], second[0])
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(clip_uniforms(["b"], 1, K, T), second)


def test_guidance_formula() -> None:
    conditional, null = torch.tensor([2.0, -1.0]), torch.tensor([1.0, 1.0])
    assert guide(conditional, null, 3.0).tolist() == [4.0, -5.0]
    assert guide(conditional, null, 1.0).tolist() == conditional.tolist()
    assert guide(conditional, null, 0.0).tolist() == null.tolist()


def test_top_1_is_greedy_and_temperature_nears_it() -> None:
    logits = torch.randn(50, C, generator=torch.Generator().manual_seed(0))
    uniform = torch.rand(50, generator=torch.Generator().manual_seed(1))
    assert torch.equal(sample(logits, uniform, top_k=1, temperature=1.0), logits.argmax(dim=-1))
    assert torch.equal(sample(logits, uniform, top_k=C, temperature=1e-4), logits.argmax(dim=-1))


@pytest.mark.parametrize("top_k", [2, 5, C, C + 1])
def test_draws_follow_the_truncated_softmax(top_k: int) -> None:
    logits = torch.randn(C, generator=torch.Generator().manual_seed(0))
    # Evenly spaced numbers instead of random ones: the counts are exact to one in 10,000.
    uniform = (torch.arange(10_000) + 0.5) / 10_000
    drawn = sample(logits.expand(10_000, C), uniform, top_k=top_k, temperature=0.7)
    kept = logits.topk(min(top_k, C)).indices
    expected = torch.zeros(C)
    expected[kept] = (logits[kept] / 0.7).softmax(dim=0)
    torch.testing.assert_close(torch.bincount(drawn, minlength=C) / 10_000, expected, atol=2e-4, rtol=0)


def test_extreme_numbers_stay_among_the_possible() -> None:
    logits = torch.tensor([[-torch.inf, 0.0, 1.0, -torch.inf]]).expand(2, 4)
    uniform = torch.tensor([0.0, 1.0 - 2**-24])
    assert sample(logits, uniform, top_k=4, temperature=1.0).tolist() == [1, 2]
