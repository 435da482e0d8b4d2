"""Rotary positions in time and codebook: a plain loop, LLaMA's rotation on either axis, and cached steps."""

import cmath
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pipeline import params
from pipeline.files import read_json, write_json
from pipeline.generation.sampling import generate
from pipeline.lm import model as language_model
from pipeline.lm.model import LanguageModel, ModelShape
from pipeline.lm.patterns import pattern
from pipeline.lm.transformer import Rotation, rotary_2d

K, C, T, D, HEAD = 3, 11, 6, 8, 8


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def model_of(positions: str = "rotary_2d") -> LanguageModel:
    torch.manual_seed(0)
    sizes = {"width": 16, "heads": 2, "layers": 2, "feedforward": 32, "dropout": 0.0, "positions": positions}
    model = LanguageModel(ModelShape("flatten", K, C, T, D, **sizes))
    model.heads.data.normal_()
    # Sharper attention than at the start of training, so that positions show.
    for layer in model.transformer.layers:
        layer.self_qkv.weight.data *= 4
    return model.eval()


def batch() -> tuple[Tensor, Tensor, Tensor]:
    mask = torch.ones(2, 5, dtype=torch.bool)
    mask[-1, 3:] = False
    return torch.randint(C, (2, K, T), generator=torch.Generator().manual_seed(1)), noise(2, 5, D), mask


def test_places_are_those_of_the_tokens() -> None:
    layout = pattern("flatten", K, T)
    for k in range(K):
        for t in range(T):
            assert layout.places[layout.step[k, t]].tolist() == [t, k]


@pytest.mark.parametrize("name", ["parallel", "delay", "partial-delay", "coarse-first"])
def test_steps_of_several_tokens_have_none(name: str) -> None:
    with pytest.raises(ValueError, match="its steps hold several codebooks"):
        _ = pattern(name, K, T).places
    with pytest.raises(ValueError, match=rf"rotary_2d, and pattern '{name}' has no places: .* such as flatten"):
        LanguageModel(replace(model_of().shape, pattern=name))
    assert len(pattern(name, 1, T).places) == T


def test_scores_are_those_of_a_loop_over_pairs_of_places() -> None:
    """Re sum_i conj(q_i) exp(i (p - p') w_i) k_i, p being the time for half of a head's pairs and the codebook else."""
    layout = pattern("flatten", K, T)
    queries, keys = noise(layout.steps, HEAD).double(), noise(layout.steps, HEAD, seed=1).double()
    rotation = rotary_2d(layout.places, HEAD)
    scores = rotation.turn(queries) @ rotation.turn(keys).T
    for q, (time, band) in enumerate(layout.places.tolist()):
        for key, (their_time, their_band) in enumerate(layout.places.tolist()):
            expected = 0.0
            for half, distance in ((0, time - their_time), (1, band - their_band)):
                for i in range(2):
                    a, b = half * 4 + i, half * 4 + 2 + i
                    turned = complex(queries[q, a], queries[q, b]) * cmath.exp(1j * distance * 10_000 ** (-i / 2))
                    expected += (turned * complex(keys[key, a], keys[key, b]).conjugate()).real
            assert float(scores[q, key]) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("axis", [0, 1])
def test_on_one_axis_it_is_llamas(axis: int) -> None:
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

    half, steps = 16, 40
    config = LlamaConfig(hidden_size=2 * half, num_attention_heads=2)
    config.rope_parameters = {"rope_type": "default", "rope_theta": 10_000.0}
    query, key = noise(1, 2, steps, 2 * half), noise(1, 2, steps, 2 * half, seed=1)
    places = torch.zeros(steps, 2, dtype=torch.long)
    places[:, axis] = torch.arange(steps) * 3
    cosine, sine = LlamaRotaryEmbedding(config)(query, places[:, axis][None])
    own = slice(axis * half, (axis + 1) * half)
    expected = apply_rotary_pos_emb(query[..., own], key[..., own], cosine, sine)
    rotation = rotary_2d(places, 2 * half)
    for ours, before, theirs in zip(map(rotation.turn, (query, key)), (query, key), expected, strict=True):
        torch.testing.assert_close(ours[..., own], theirs, rtol=1e-5, atol=1e-5)
        other = slice((1 - axis) * half, (2 - axis) * half)
        assert torch.equal(ours[..., other], before[..., other])


@given(time=st.integers(0, 200), band=st.integers(0, 20), seed=st.integers(0, 20))
def test_scores_depend_on_differences_of_places_alone(time: int, band: int, seed: int) -> None:
    places = torch.randint(30, (7, 2), generator=torch.Generator().manual_seed(seed))
    query, key = noise(7, HEAD, seed=seed).double(), noise(7, HEAD, seed=seed + 1).double()

    def scores(rotation: Rotation) -> Tensor:
        return rotation.turn(query) @ rotation.turn(key).T

    moved = places + torch.tensor([time, band])
    torch.testing.assert_close(scores(rotary_2d(moved, HEAD)), scores(rotary_2d(places, HEAD)), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_step_is_that_of_all_steps_at_once() -> None:
    """From a cache that was filled one step at a time, or its first steps at once."""
    model, (codes, text, mask) = model_of(), batch()
    layout = model.pattern(T)
    laid = layout.lay_out(codes, C)
    inputs = model.embed(torch.cat([torch.full((2, K, 1), C), laid[:, :, :-1]], dim=2))
    states = model.condition(text, mask)
    expected = model.transformer(inputs, *states, model.rotation(layout))
    torch.testing.assert_close(model.hidden(codes, text, mask), expected)
    for first in (0, 1, 7):
        cache = model.transformer.cache(*states, layout.steps, model.rotation(layout))
        if first:
            model.transformer.prefill(inputs[:, :first], cache)
        for step in range(first, layout.steps):
            found = model.transformer.step(inputs[:, step], cache, step)
            torch.testing.assert_close(found, expected[:, step], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_positions_are_turned_and_nothing_is_added() -> None:
    """Steps that are alike differ by their places alone; without a rotation, not at all after the first."""
    model, (_, text, mask) = model_of(), batch()
    inputs = noise(1, 1, 16).expand(2, 9, 16)
    states = model.condition(text, mask)
    alike = model.transformer(inputs, *states, rotary_2d(torch.zeros(9, 2, dtype=torch.long), 8))
    torch.testing.assert_close(alike, alike[:, :1].expand_as(alike), atol=1e-5, rtol=1e-5)
    keys = model.transformer.layers[0]
    cache = model.transformer.cache(*states, 9, rotary_2d(pattern("flatten", K, 3).places, 8))
    model.transformer.prefill(inputs, cache)
    _, key, _ = keys._split(keys.self_qkv(keys.self_norm(inputs)), 3)
    turned = rotary_2d(pattern("flatten", K, 3).places, 8).turn(key)
    torch.testing.assert_close(cache.layers[0].keys.view(2, 2, 8, 9).transpose(2, 3), turned)


@torch.no_grad()
def test_a_crop_of_all_frames_is_the_clip() -> None:
    model, (codes, text, mask) = model_of(), batch()
    window = torch.arange(T).expand(2, T)
    torch.testing.assert_close(model(codes, text, mask, window), model(codes, text, mask), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_crop_has_its_true_places() -> None:
    """Each row by itself: the crop's steps of the whole clip, turned as they are there."""
    model, (codes, text, mask) = model_of(), batch()
    layout = model.pattern(T)
    laid = torch.cat([torch.full((2, K, 1), C), layout.lay_out(codes, C)[:, :, :-1]], dim=2)
    starts, frames = [1, 3], 3
    found = model(codes, text, mask, torch.tensor(starts)[:, None] + torch.arange(frames))
    for row, start in enumerate(starts):
        steps = layout.step[:, start : start + frames]
        kept = slice(int(steps.min()), int(steps.max()) + 1)
        condition = model.condition(text[row : row + 1], mask[row : row + 1])
        inputs = model.embed(laid[row : row + 1, :, kept])
        hidden = model.transformer(inputs, *condition, rotary_2d(layout.places[kept], 8))[0]
        for k in range(K):
            expected = hidden[steps[k] - kept.start] @ model.heads[k].T
            torch.testing.assert_close(found[row, k], expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_the_rotation_tells_places_apart() -> None:
    model, (codes, text, mask) = model_of(), batch()
    plain = LanguageModel(replace(model.shape, positions="sinusoidal")).eval()
    plain.load_state_dict(model.state_dict())
    assert not torch.allclose(model(codes, text, mask), plain(codes, text, mask), atol=1e-2)


def test_generation_draws_what_the_whole_model_would() -> None:
    model, (_, text, mask) = model_of(), batch()
    codes = generate(
        model, text, mask, frames=T, uniforms=torch.rand(2, K, T), guidance_scale=1.0, top_k=1, temperature=1.0
    )
    assert torch.equal(model(codes, text, mask).argmax(-1), codes)


def test_files_round_trip_and_old_ones_are_sinusoidal(tmp_path: Path) -> None:
    model, inputs = model_of(), batch()
    language_model.save(model, tmp_path)
    loaded = language_model.load(tmp_path)
    assert loaded.shape.positions == "rotary_2d"
    assert torch.equal(loaded(*inputs), model(*inputs))
    shape = read_json(tmp_path / "model.json")
    del shape["positions"]
    write_json(tmp_path / "model.json", shape)
    assert language_model.load(tmp_path).shape.positions == "sinusoidal"


def test_the_parameters_decide() -> None:
    section = params.load(Path(__file__).parents[2] / "params.yaml").lm
    rest = {"pattern": "flatten", "codebooks": K, "codebook_size": C, "frames": T, "text_dimension": D}
    assert ModelShape.of(section, **rest).positions == "sinusoidal"
    assert ModelShape.of(section.model_copy(update={"positions": "rotary_2d"}), **rest).positions == "rotary_2d"


def test_heads_whose_pairs_have_no_halves_are_named() -> None:
    with pytest.raises(ValueError, match=r"heads of a multiple of 4 numbers, and lm\.width / lm\.heads is 6"):
        rotary_2d(torch.zeros(3, 2), 6)
