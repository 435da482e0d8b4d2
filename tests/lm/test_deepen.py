"""Depth heads: what a codebook may see, the joint that they model, generation step by step, and the job's files."""

import itertools
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.dependence import price
from pipeline.generation.sampling import clip_uniforms, generate, sample
from pipeline.lm import deepen, train
from pipeline.lm import model as language_model
from pipeline.lm.depth import Head
from pipeline.lm.model import LanguageModel, ModelShape
from tests.dependence.test_conditional import C as CODES
from tests.dependence.test_conditional import _write

K, C, T, D = 3, 5, 6, 8
PATTERNS = ("parallel", "delay")


def deep_model(pattern: str) -> LanguageModel:
    """With heads that matter: a head starts at no correction."""
    torch.manual_seed(0)
    shape = ModelShape(pattern, K, C, T, D, width=16, heads=2, layers=1, feedforward=32, dropout=0.0, depth=4)
    model = LanguageModel(shape)
    for parameter in (model.heads, *model.depth.parameters()):
        parameter.data.normal_()
    return model.eval()


def texts(clips: int) -> tuple[Tensor, Tensor]:
    return torch.randn(clips, 5, D, generator=torch.Generator().manual_seed(1)), torch.ones(clips, 5, dtype=torch.bool)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_token_changes_later_steps_and_later_codebooks_of_its_own(pattern: str) -> None:
    model, (text, mask) = deep_model(pattern), texts(2)
    codes = torch.randint(C, (2, K, T), generator=torch.Generator().manual_seed(2))
    before, step = model(codes, text, mask), model.pattern(T).step
    number = torch.arange(K)[:, None]
    for k, t in itertools.product(range(K), range(T)):
        changed = codes.clone()
        changed[:, k, t] = (changed[:, k, t] + 1) % C
        moved = (model(changed, text, mask) - before).abs().amax(dim=(0, 3)) > 1e-6
        beside = (step == step[k, t]) & (number > k)
        assert not moved[(step <= step[k, t]) & ~beside].any()
        whole = torch.stack([((step == s).any(dim=1)[:j]).all() for j in range(K) for s in step[j]]).view(K, T)
        assert moved[beside & whole].all()


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_crop_has_the_logits_of_its_whole_clip_within_a_step(pattern: str) -> None:
    """Without layers of attention a step reads the one before it alone, so that a crop loses nothing."""
    model, (text, mask) = deep_model(pattern), texts(2)
    model.transformer.layers = torch.nn.ModuleList()  # type: ignore[assignment]
    codes = torch.randint(C, (2, K, T), generator=torch.Generator().manual_seed(2))
    window = torch.tensor([[1, 2, 3], [2, 3, 4]])
    whole = model(codes, text, mask).gather(2, window[:, None, :, None].expand(-1, K, -1, C))
    torch.testing.assert_close(model(codes, text, mask, window), whole)


@pytest.mark.parametrize("scale", [1.0, 2.5])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_generation_is_that_of_the_whole_model_anew_for_every_token(pattern: str, scale: float) -> None:
    model, (text, mask) = deep_model(pattern), texts(3)
    noise = clip_uniforms(["a", "b", "c"], 0, K, T)
    how: dict[str, Any] = {"guidance_scale": scale, "top_k": 4, "temperature": 0.9}
    codes = torch.zeros(3, K, T, dtype=torch.long)
    step = model.pattern(T).step
    for s, k in itertools.product(range(int(step.max()) + 1), range(K)):
        for t in (step[k] == s).nonzero().flatten().tolist():
            conditional, null = (model(codes, text, m)[:, k, t] for m in (mask, torch.zeros_like(mask)))
            codes[:, k, t] = sample(null + scale * (conditional - null), noise[:, k, t], top_k=4, temperature=0.9)
    drawn = generate(model, text, mask, frames=T, uniforms=noise, **how)
    assert torch.equal(drawn, codes)
    assert len(drawn.unique()) == C
    for frames in (1, 2, T):
        again = generate(model, text, mask, frames=T, uniforms=noise, prompt=drawn[:, :, :frames], **how)
        assert torch.equal(again, drawn)


def test_a_step_is_drawn_from_the_joint() -> None:
    """A head that copies: codebooks 1 and 2 repeat what codebook 0 drew, which no product of marginals can."""
    model, (text, mask) = deep_model("parallel"), texts(1)
    model.heads.data.zero_()
    for head in model.depth:
        head.embedding.data.zero_()
        head.gate.data.zero_()
        head.embedding.data[0, :, : C - 1] = 50 * torch.eye(C)[:, : C - 1]
        head.output.data.copy_(F.pad(torch.eye(C - 1), (0, 0, 0, 1)) - F.pad(torch.ones(1, C - 1), (0, 0, C - 1, 0)))
    clips = 400
    codes = generate(
        model,
        text.expand(clips, -1, -1),
        mask.expand(clips, -1),
        frames=2,
        uniforms=clip_uniforms([str(i) for i in range(clips)], 0, K, 2),
        guidance_scale=1.0,
        top_k=C,
        temperature=1.0,
    )
    known = codes[:, 0] < C - 1
    assert torch.equal(codes[:, 1][known], codes[:, 0][known])
    assert torch.equal(codes[:, 2][known], codes[:, 0][known])
    shares = codes[:, 0].flatten().bincount(minlength=C) / (2 * clips)
    torch.testing.assert_close(shares, torch.full((C,), 1 / C), atol=0.06, rtol=0)


def test_the_model_itself_is_unchanged() -> None:
    torch.manual_seed(0)
    shape = ModelShape("parallel", K, C, T, D, width=16, heads=2, layers=1, feedforward=32, dropout=0.0)
    model = LanguageModel(shape).eval()
    deep = deepen.deepened(model, [Head(k, C, 16, 4, torch.Generator().manual_seed(k)) for k in (1, 2)])
    assert deep.shape.depth == 4
    codes = torch.randint(C, (2, K, T), generator=torch.Generator().manual_seed(2))
    assert torch.equal(deep(codes, *texts(2)), model(codes, *texts(2)))  # heads start at no correction
    assert all(torch.equal(value, deep.state_dict()[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("pattern", PATTERNS)
def test_the_job_saves_what_the_price_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pattern: str) -> None:
    """Bits of the model less those of the deepened one, on full steps, are the price, bit for bit the same heads."""
    arguments = _write(tmp_path, pattern)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["price", *arguments])
    price.main()
    place = arguments.index("--out") + 1
    paid = json.loads(Path(arguments[place]).read_bytes())
    arguments[place] = str(tmp_path / "deep")
    monkeypatch.setattr(sys, "argv", ["deepen", *arguments])
    deepen.main()
    deep = language_model.load(tmp_path / "deep")
    assert (deep.shape.pattern, deep.shape.codebook_size) == (pattern, CODES)
    saved = np.load(tmp_path / "deep" / "held_out.npz")
    found = json.loads((tmp_path / "deep" / "metrics.json").read_text())
    assert found["test"]["bits_per_frame"] == pytest.approx(saved["bits_per_frame"].mean())
    if pattern == "parallel":  # of delay, steps at a clip's ends count as well
        assert found["test"]["bits_per_frame"] == pytest.approx(paid["bits_with_head"]["value"], rel=1e-5)
    changed = deep.heads.detach() - language_model.load(tmp_path / "lm").heads.detach()
    assert not changed.any()
    assert all(head.embedding.any() for head in deep.depth)
    assert train.bits(saved["nats"]) == pytest.approx(saved["bits_per_frame"])
    arguments[arguments.index("--lm") + 1] = str(tmp_path / "deep")
    monkeypatch.setattr(sys, "argv", ["deepen", *arguments])
    with pytest.raises(ValueError, match="has depth heads already"):
        deepen.main()
