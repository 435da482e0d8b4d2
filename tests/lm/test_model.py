"""The transformer against MusicGen's of transformers, and the language model's causality, null text and files."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from pipeline import params
from pipeline.lm import model as language_model
from pipeline.lm.model import LanguageModel, ModelShape, cross_entropy
from pipeline.lm.transformer import FEW_STEPS, Transformer, set_matmul_precision, sinusoids

K, C, T, D = 3, 11, 6, 8


def model_of(pattern: str, **sizes: int) -> LanguageModel:
    torch.manual_seed(0)
    shape = {"width": 16, "heads": 2, "layers": 2, "feedforward": 32, "dropout": 0.0, **sizes}
    model = LanguageModel(ModelShape(pattern, K, C, T, D, **shape))
    # Larger heads than at the start of training, so that differences show.
    model.heads.data.normal_()
    return model.eval()


def batch(size: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    mask = torch.ones(size, 5, dtype=torch.bool)
    mask[-1, 3:] = False
    return (
        torch.randint(C, (size, K, T), generator=generator),
        torch.randn(size, 5, D, generator=generator),
        mask,
    )


def test_float32_products_are_of_float32() -> None:
    """On CPUs with AMX, "medium" would round products of this size to bfloat16, and be 2e-3 off."""
    before = torch.get_float32_matmul_precision()
    left, right = torch.randn(2, 1000, 800, generator=torch.Generator().manual_seed(0))
    exact = left.double() @ right.double().T
    try:
        set_matmul_precision(torch.device("cpu"))
        assert (left @ right.T - exact).norm() / exact.norm() < 1e-6
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("name", sorted(params.choices("PATTERNS")))
def test_a_token_changes_only_later_steps(name: str) -> None:
    model, (codes, text, mask) = model_of(name), batch()
    before = model(codes, text, mask)
    step = model.pattern(T).step
    for k in range(K):
        for t in range(T):
            changed = codes.clone()
            changed[:, k, t] = (changed[:, k, t] + 1) % C
            moved = (model(changed, text, mask) - before).abs().amax(dim=(0, 3)) > 1e-6
            assert not moved[step <= step[k, t]].any()
            assert moved[step == step[k, t] + 1].all()


@pytest.mark.parametrize("name", sorted(params.choices("PATTERNS")))
def test_logits_are_those_of_the_plain_computation(name: str) -> None:
    """Embed K tokens a step, the special one too; all heads at all steps; then pick the tokens' own."""
    model, (codes, text, mask) = model_of(name), batch()
    layout = model.pattern(T)
    laid = torch.full((2, K, layout.steps), C)
    for k in range(K):
        for t in range(T):
            laid[:, k, layout.step[k, t]] = codes[:, k, t]
    laid = torch.cat([torch.full((2, K, 1), C), laid[:, :, :-1]], dim=2)
    tables = model.embedding.weight.view(K, C + 1, -1)
    inputs = sum(table[tokens] for table, tokens in zip(tables, laid.unbind(1), strict=True))
    hidden = model.transformer(inputs, *model.condition(text, mask))
    every = torch.einsum("bsd,kcd->bksc", hidden, model.heads)
    picked = torch.stack([every[:, k, layout.step[k]] for k in range(K)], dim=1)
    torch.testing.assert_close(model(codes, text, mask), picked, atol=1e-5, rtol=1e-5)


def test_text_past_its_mask_does_not_matter() -> None:
    model, (codes, text, mask) = model_of("delay"), batch()
    other = text.clone()
    other[~mask] = 7.0
    torch.testing.assert_close(model(codes, other, mask), model(codes, text, mask))


def test_null_text_is_no_cross_attention() -> None:
    model, (codes, text, mask) = model_of("delay"), batch()
    null = model(codes, text, torch.zeros_like(mask))
    for layer in model.transformer.layers:
        layer.cross_out.weight.data.zero_()
    torch.testing.assert_close(null, model(codes, text, mask))


def test_gradients_of_rows_with_null_text_are_finite() -> None:
    model, (codes, text, mask) = model_of("delay"), batch()
    cross_entropy(model(codes, text, mask & torch.tensor([[True], [False]])), codes).mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_cross_entropy_of_equal_logits_is_log_of_the_codebook_size() -> None:
    nats = cross_entropy(torch.zeros(2, K, T, C), torch.zeros(2, K, T, dtype=torch.long))
    torch.testing.assert_close(nats, torch.full((2, K, T), math.log(C)))


def test_transformer_is_musicgens_decoder() -> None:
    """Same weights, same hidden states as transformers.MusicgenModel."""
    from transformers import MusicgenDecoderConfig
    from transformers.models.musicgen.modeling_musicgen import MusicgenModel

    config = MusicgenDecoderConfig(
        vocab_size=C, num_codebooks=K, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, ffn_dim=32,
        dropout=0.0, attention_dropout=0.0, activation_dropout=0.0, max_position_embeddings=32,
    )  # fmt: skip
    torch.manual_seed(0)
    theirs = MusicgenModel(config).decoder.eval()
    model = model_of("parallel")
    ours: Transformer = model.transformer
    tables = model.embedding.weight.data.view(K, C + 1, 16)
    for table, embedding in zip(tables, theirs.embed_tokens, strict=True):
        embedding.weight.data.copy_(table)
    for layer, reference in zip(ours.layers, theirs.layers, strict=True):
        for norm, other in (
            (layer.self_norm, reference.self_attn_layer_norm),
            (layer.cross_norm, reference.encoder_attn_layer_norm),
            (layer.norm, reference.final_layer_norm),
        ):
            norm.weight.data.normal_(1, 0.1)
            norm.bias.data.normal_(0, 0.1)
            other.load_state_dict(norm.state_dict())
        attention, cross = reference.self_attn, reference.encoder_attn
        pieces = [*layer.self_qkv.weight.data.chunk(3), layer.self_out.weight.data, layer.cross_q.weight.data]
        pieces += [*layer.cross_kv.weight.data.chunk(2), layer.cross_out.weight.data]
        projections = [attention.q_proj, attention.k_proj, attention.v_proj, attention.out_proj]
        projections += [cross.q_proj, cross.k_proj, cross.v_proj, cross.out_proj]
        for piece, projection in zip(pieces, projections, strict=True):
            projection.weight.data.copy_(piece)
        reference.fc1.weight.data.copy_(layer.fc1.weight.data)
        reference.fc2.weight.data.copy_(layer.fc2.weight.data)
    theirs.layer_norm.load_state_dict(ours.norm.state_dict())

    codes, text, mask = batch()
    states, visible = model.condition(text, mask)
    expected = theirs(
        input_ids=codes.view(2 * K, T), encoder_hidden_states=states, encoder_attention_mask=visible.long()
    ).last_hidden_state
    torch.testing.assert_close(ours(model.embed(codes), states, visible), expected, atol=1e-5, rtol=1e-5)


def test_files_round_trip(tmp_path: Path) -> None:
    model, inputs = model_of("flatten"), batch()
    language_model.save(model, tmp_path)
    loaded = language_model.load(tmp_path)
    assert loaded.shape == model.shape
    assert not loaded.training
    assert torch.equal(loaded(*inputs), model(*inputs))


def test_missing_and_mismatched_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"model.json and model.safetensors missing"):
        language_model.load(tmp_path)
    language_model.save(model_of("delay"), tmp_path)
    language_model.write_json(tmp_path / "model.json", {**vars(model_of("delay").shape), "width": 32})
    with pytest.raises(ValueError, match=r"does not fit model\.json"):
        language_model.load(tmp_path)


@pytest.mark.parametrize("name", sorted(params.choices("PATTERNS")))
def test_a_crop_of_all_frames_is_the_clip(name: str) -> None:
    model, (codes, text, mask) = model_of(name), batch()
    window = torch.arange(T).expand(2, T)
    torch.testing.assert_close(model(codes, text, mask, window), model(codes, text, mask), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["parallel", "delay", "partial-delay", "flatten", "partial-flatten"])
def test_a_crop_from_the_start_is_the_beginning_of_the_clip(name: str) -> None:
    model, (codes, text, mask) = model_of(name), batch()
    window = torch.arange(4).expand(2, 4)
    whole = model(codes, text, mask)[:, :, :4]
    torch.testing.assert_close(model(codes, text, mask, window), whole, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", sorted(params.choices("PATTERNS")))
def test_a_crop_is_the_clip_without_attention_to_what_lies_before_it(name: str) -> None:
    """Each row by itself: the crop's steps of the whole clip, at their positions, with the inputs they have there."""
    model, (codes, text, mask) = model_of(name), batch()
    starts, frames = [1, 3], 3
    window = torch.tensor(starts)[:, None] + torch.arange(frames)
    found, layout = model(codes, text, mask, window), model.pattern(T)
    laid = layout.lay_out(codes, C)
    for row, start in enumerate(starts):
        steps = layout.step[:, start : start + frames]
        kept = sorted(set(steps.flatten().tolist()))
        before = [laid[row, :, step - 1] if step else torch.full((K,), C) for step in kept]
        inputs = model.embed(torch.stack(before, dim=1)[None])
        condition = model.condition(text[row : row + 1], mask[row : row + 1])
        hidden = model.transformer(inputs, *condition, sinusoids(layout.steps, 16)[kept][None])[0]
        for k in range(K):
            expected = hidden[[kept.index(step) for step in steps[k].tolist()]] @ model.heads[k].T
            torch.testing.assert_close(found[row, k], expected, atol=1e-5, rtol=1e-5)


def test_an_untrained_model_predicts_the_shares_that_it_was_given() -> None:
    model, (codes, text, mask) = model_of("delay"), batch()
    shares = torch.randn(K, C, generator=torch.Generator().manual_seed(2)).log_softmax(dim=1)
    model.start_at(shares)
    torch.testing.assert_close(model(codes, text, mask).log_softmax(dim=3), shares[:, None].expand(2, K, T, C))


def test_the_beginning_of_a_long_clip_is_the_short_clip() -> None:
    """Attention to the past is the same above the number of steps from which it goes block by block."""
    model, (_, text, mask) = model_of("parallel"), batch()
    codes = torch.randint(C, (2, K, FEW_STEPS + 20), generator=torch.Generator().manual_seed(3))
    long, short = model(codes, text, mask), model(codes[:, :, :FEW_STEPS], text, mask)
    torch.testing.assert_close(long[:, :, :FEW_STEPS], short, atol=1e-5, rtol=1e-5)
