"""Exchange with MusicGen of transformers: the same weights give the same logits, tokens and waveforms, both ways."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.codec import model as codecs
from pipeline.exchange import musicgen
from pipeline.files import read_json, write_json
from pipeline.generation.sampling import generate
from pipeline.lm import conditioning
from pipeline.lm import model as language_model
from pipeline.lm.model import LanguageModel, ModelShape

K, C, T, D = 4, 16, 9, 8
GREEDY = {"top_k": 1, "temperature": 1.0}


def model_of(pattern: str = "delay", text_dimension: int = D) -> LanguageModel:
    torch.manual_seed(0)
    model = LanguageModel(
        ModelShape(pattern, K, C, T, text_dimension, width=16, heads=2, layers=2, feedforward=32, dropout=0.1)
    )
    # Larger heads and livelier norms than at the start of training, so that differences show.
    model.heads.data.normal_()
    for name, parameter in model.named_parameters():
        if "norm" in name:
            parameter.data += 0.1 * torch.randn_like(parameter)
    return model.eval()


def batch(clips: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    mask = torch.ones(clips, 5, dtype=torch.bool)
    mask[-1, 3:] = False
    return torch.randint(C, (clips, K, T), generator=generator), torch.randn(clips, 5, D, generator=generator), mask


def their_logits(theirs: Any, model: LanguageModel, codes: Tensor, text: Tensor, mask: Tensor) -> Tensor:
    """Logits of every token `[B, K, T, C]` from MusicgenForCausalLM, fed by its own delay pattern."""
    laid = torch.full((len(codes), K, T + K), C)
    for k in range(K):
        laid[:, k, 1 + k : 1 + k + T] = codes[:, k]
    states, visible = model.condition(text, mask)
    with torch.no_grad():
        logits = theirs(
            input_ids=laid.flatten(0, 1)[:, :-1],
            encoder_hidden_states=states,
            encoder_attention_mask=visible.long(),
        ).logits.unflatten(0, (len(codes), K))
    return torch.stack([logits[:, k, k : k + T] for k in range(K)], dim=1)


def test_logits_are_those_of_musicgen() -> None:
    model, (codes, text, mask) = model_of(), batch()
    expected = their_logits(musicgen.to_transformers(model), model, codes, text, mask)
    assert expected.std() > 0.5
    torch.testing.assert_close(model(codes, text, mask), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_greedy_tokens_are_those_that_musicgen_generates(scale: float) -> None:
    from transformers import DynamicCache, EncoderDecoderCache

    model, (_, text, mask) = model_of(), batch(3)
    ours = generate(model, text, mask, frames=T, uniforms=torch.zeros(3, K, T), guidance_scale=scale, **GREEDY)
    states, visible = model.condition(text, mask)
    if scale != 1:
        states = torch.cat([states, torch.zeros_like(states)])
        visible = torch.cat([visible, torch.zeros_like(visible)])
    theirs = musicgen.to_transformers(model).generate(
        torch.full((3 * K, 1), C),
        attention_mask=torch.ones(3, 1, dtype=torch.long),  # the default leaves out the special token, the first step
        encoder_hidden_states=states,
        encoder_attention_mask=visible.long(),
        guidance_scale=scale,
        do_sample=False,
        num_return_sequences=1,
        max_length=T + K,
        # The default is a model's without cross-attention, whose keys then end up among the others.
        past_key_values=EncoderDecoderCache(DynamicCache(), DynamicCache()),
    )
    assert torch.equal(ours, theirs.view(3, K, T))
    assert len(ours.unique()) > 3


def test_export_and_import_round_trip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import MusicgenForCausalLM

    model = model_of()
    language_model.save(model, tmp_path / "lm")
    call(monkeypatch, "export", tmp_path / "lm", tmp_path / "exported")
    theirs = MusicgenForCausalLM.from_pretrained(tmp_path / "exported").eval()
    codes, text, mask = batch()
    torch.testing.assert_close(
        model(codes, text, mask), their_logits(theirs, model, codes, text, mask), atol=1e-4, rtol=0
    )
    assert theirs.generation_config.max_length == T + K
    assert "lm" in read_json(tmp_path / "exported" / "provenance.json")["params"]
    call(monkeypatch, "import", tmp_path / "exported", tmp_path / "imported")
    again = language_model.load(tmp_path / "imported" / "lm")
    assert again.shape == model.shape
    assert torch.equal(again(codes, text, mask), model(codes, text, mask))


def whole_musicgen(folder: Path) -> Any:
    """A MusicGen with random weights, saved as its checkpoints are, and its tokenizer of words."""
    from text_encoders import small_t5
    from transformers import (
        EncodecConfig,
        MusicgenConfig,
        MusicgenDecoderConfig,
        MusicgenForConditionalGeneration,
        T5Config,
    )

    small_t5(folder)
    for name in ("config.json", "model.safetensors"):
        (folder / name).unlink()
    torch.manual_seed(0)
    text = T5Config(vocab_size=128, d_model=12, d_kv=6, d_ff=16, num_layers=1, num_heads=2)
    decoder = MusicgenDecoderConfig(
        vocab_size=C, num_codebooks=K, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, ffn_dim=32,
        max_position_embeddings=64, pad_token_id=C, bos_token_id=C,
    )  # fmt: skip
    # 8 Hz: MusicGen's 30 seconds are 240 frames.
    audio = EncodecConfig(
        sampling_rate=128, num_filters=2, hidden_size=8, codebook_size=C, codebook_dim=8, upsampling_ratios=[4, 4],
        num_lstm_layers=1, use_causal_conv=False, target_bandwidths=[K * 8 * 4 / 1000], norm_type="weight_norm",
        audio_channels=1, normalize=False, use_conv_shortcut=False, pad_mode="reflect",
    )  # fmt: skip
    model = MusicgenForConditionalGeneration(MusicgenConfig(text_encoder=text, audio_encoder=audio, decoder=decoder))
    for name, parameter in model.named_parameters():
        if "lm_heads" in name or "codebook" in name or "enc_to_dec" in name:
            parameter.data.normal_()
    for layer in model.audio_encoder.quantizer.layers:
        layer.codebook.embed.normal_()
    model.generation_config.update(pad_token_id=C, bos_token_id=C, decoder_start_token_id=C, max_length=T + K)
    model.eval().save_pretrained(folder)
    return model


def test_a_whole_checkpoint_sounds_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From text to waveform: encoder, language model under guidance, codec."""
    theirs = whole_musicgen(tmp_path / "musicgen")
    call(monkeypatch, "import", tmp_path / "musicgen", tmp_path / "imported")
    model, codec = language_model.load(tmp_path / "imported" / "lm"), codecs.load(tmp_path / "imported" / "codec")
    assert model.shape.frames == 240
    states = conditioning.embed(["slow piano", "loud drums slow"], tmp_path / "imported" / "text_encoder", 16)
    codes = generate(
        model, *states.batch([0, 1]), frames=T, uniforms=torch.zeros(2, K, T), guidance_scale=3.0, **GREEDY
    )
    tokens = torch.tensor([[3, 4, 1, 0], [5, 6, 3, 1]])
    expected = theirs.generate(
        input_ids=tokens, attention_mask=(tokens != 0).long(), do_sample=False, guidance_scale=3.0, max_length=T + K
    )
    with torch.no_grad():
        torch.testing.assert_close(codec.decode(codes), expected[:, 0], atol=1e-4, rtol=1e-3)
    assert expected.std() > 0


def test_what_musicgen_cannot_be_is_named() -> None:
    with pytest.raises(ValueError, match="has only the delay pattern, and this model's is flatten"):
        musicgen.to_transformers(model_of("flatten"))
    plain = model_of("delay")
    with pytest.raises(ValueError, match="has no depth heads: export the model that they were added to"):
        musicgen.to_transformers(LanguageModel(replace(plain.shape, depth=2)))


def test_positions_on_a_grid_have_no_musicgen() -> None:
    model = LanguageModel(replace(model_of("flatten").shape, positions="rotary_2d"))
    with pytest.raises(ValueError, match="has only sinusoidal positions, and this model's are rotary_2d"):
        musicgen.to_transformers(model)


def test_a_folder_that_is_no_musicgen_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"config\.json is missing"):
        musicgen.load_musicgen(tmp_path)
    write_json(tmp_path / "config.json", {"model_type": "bert"})
    with pytest.raises(ValueError, match=r"model\.safetensors is missing: give a checkpoint in safetensors"):
        musicgen.load_musicgen(tmp_path)
    musicgen.save_musicgen(model_of(), tmp_path)
    config = read_json(tmp_path / "config.json")
    for changes, complaint in (
        ({"model_type": "bert"}, "a model of type 'bert'"),
        ({"audio_channels": 2}, "audio_channels is 2 and must be 1"),
        ({"num_hidden_layers": 3}, r"lacks the weight model\.decoder\.layers\.2\.self_attn_layer_norm\.weight"),
        ({"ffn_dim": 64}, r"fc1\.weight is \[32, 16\], which does not fit config\.json"),
    ):
        write_json(tmp_path / "config.json", config | changes)
        with pytest.raises(ValueError, match=complaint):
            musicgen.load_musicgen(tmp_path)


def change(path: Path, **values: Any) -> None:
    write_json(path, read_json(path) | values)


@pytest.mark.parametrize("unsaid", [None, "no key", "no file"])
def test_without_a_longest_generation_the_positions_tell_the_length(unsaid: str | None, tmp_path: Path) -> None:
    musicgen.save_musicgen(model_of(), tmp_path)
    change(tmp_path / "config.json", max_position_embeddings=100)
    path = tmp_path / "generation_config.json"
    assert musicgen.load_musicgen(tmp_path)[0].shape.frames == T
    if unsaid == "no file":
        path.unlink()
    else:
        settings = {name: value for name, value in read_json(path).items() if name != "max_length"}
        write_json(path, settings | ({"max_length": None} if unsaid is None else {}))
    assert musicgen.load_musicgen(tmp_path)[0].shape.frames == 100 - K


@pytest.mark.parametrize("length", ["long", 4.5, K, []])
def test_a_longest_generation_that_is_no_length_is_named(length: Any, tmp_path: Path) -> None:
    musicgen.save_musicgen(model_of(), tmp_path)
    change(tmp_path / "generation_config.json", max_length=length)
    with pytest.raises(ValueError, match=rf"max_length is .* and must be a whole number above {K}"):
        musicgen.load_musicgen(tmp_path)


@pytest.mark.parametrize("name", musicgen.SIZES)
@pytest.mark.parametrize("value", [None, "many", 0, -1])
def test_a_size_that_is_none_is_named(name: str, value: Any, tmp_path: Path) -> None:
    musicgen.save_musicgen(model_of(), tmp_path)
    change(tmp_path / "config.json", **{name: value})
    with pytest.raises(ValueError, match=name):
        musicgen.load_musicgen(tmp_path)


def test_what_a_configuration_leaves_out_is_the_default_of_transformers(tmp_path: Path) -> None:
    musicgen.save_musicgen(model_of(), tmp_path)
    config = read_json(tmp_path / "config.json")
    write_json(tmp_path / "config.json", {name: value for name, value in config.items() if name != "num_codebooks"})
    assert musicgen.load_musicgen(tmp_path)[0].shape == model_of().shape  # K is 4, its default


@pytest.mark.parametrize("section", ["text_encoder", "audio_encoder", "decoder"])
@pytest.mark.parametrize("value", [None, "there", []])
def test_a_section_that_a_whole_checkpoint_lacks_is_named(section: str, value: Any, tmp_path: Path) -> None:
    musicgen.save_musicgen(model_of(), tmp_path)
    write_json(
        tmp_path / "config.json",
        {"model_type": "musicgen", "text_encoder": {}, "audio_encoder": {}, "decoder": {}} | {section: value},
    )
    with pytest.raises(ValueError, match=f"lacks the section {section}"):
        musicgen.load_musicgen(tmp_path)


def test_weights_that_are_not_whole_are_named(tmp_path: Path) -> None:
    musicgen.save_musicgen(model_of(), tmp_path)
    change(tmp_path / "config.json", num_attention_heads=3)
    with pytest.raises(ValueError, match="num_attention_heads is 3, which does not divide 16"):
        musicgen.load_musicgen(tmp_path)
    for name in (musicgen.PROJECTION_FILE, "model.safetensors"):
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-4])
        with pytest.raises(ValueError, match=rf"{name} is not a whole safetensors file"):
            musicgen.load_musicgen(tmp_path)
    write_json(tmp_path / "model.safetensors.index.json", {})
    with pytest.raises(ValueError, match=r"index\.json lacks weight_map"):
        musicgen.load_musicgen(tmp_path)


def test_a_folder_is_not_written_over_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="the model's own folder"):
        call(monkeypatch, "export", tmp_path, tmp_path)


def call(monkeypatch: pytest.MonkeyPatch, what: str, model: Path, out: Path) -> None:
    monkeypatch.setattr(sys, "argv", ["musicgen", what, "--model", str(model), "--out", str(out)])
    musicgen.main()
