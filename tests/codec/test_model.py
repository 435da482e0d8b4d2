"""The codec's shapes, its files, and every error once."""

from pathlib import Path
from typing import Any

import pytest
import small
import torch
from safetensors.torch import load_file, save_file

from pipeline import params
from pipeline.codec import model as codecs
from pipeline.codec.quantizer import VectorQuantizer
from pipeline.files import read_json, write_json


def new(quantizer: str = "residual", architecture: str = "seanet", **changes: Any) -> codecs.Codec:
    torch.manual_seed(0)
    sizes = {name: value for name, value in changes.items() if name in small.SIZES[architecture]}
    rest = {name: value for name, value in changes.items() if name not in sizes}
    settings = params.Codec.model_validate(small.codec(architecture, sizes=sizes, **rest)).of(architecture)
    codec = codecs.Codec(codecs.configuration(settings, small.RATE, quantizer)).eval()
    if isinstance(codec.quantizer, VectorQuantizer):
        codec.quantizer.codebooks.normal_(0, 0.1)
    return codec


KINDS: dict[str, dict[str, Any]] = {
    "default": {},
    "causal": {"causal": True},
    "zeros": {"pad_mode": "constant"},
    "grouped": {"quantizer": "grouped"},
    "fsq": {"quantizer": "fsq"},
    "cosine": {"quantizer": "cosine"},
    "stft": {"architecture": "stft"},
}


@pytest.fixture(params=KINDS.values(), ids=KINDS)
def codec(request: pytest.FixtureRequest) -> codecs.Codec:
    return new(**request.param)


@pytest.fixture
def folder(codec: codecs.Codec, tmp_path: Path) -> Path:
    codecs.save(codec, tmp_path, {"commit": "abc"})
    return tmp_path


@pytest.mark.parametrize(("samples", "frames"), [(1, 1), (15, 1), (16, 1), (17, 2), (1600, 100)])
def test_codes_and_waveforms_have_whole_frames(codec: codecs.Codec, samples: int, frames: int) -> None:
    codes = codec.encode(torch.randn(3, samples, generator=torch.Generator().manual_seed(0)))
    assert codes.shape == (3, small.K, frames)
    assert not codes.is_floating_point()
    waveform = codec.decode(codes)
    assert waveform.shape == (3, frames * small.HOP)
    assert waveform.isfinite().all()


def test_rates_follow_from_the_ratios(codec: codecs.Codec) -> None:
    assert codec.hop_length == 4 * 2 * 2
    assert codec.frame_rate == small.RATE / 16


def test_silence_has_codes(codec: codecs.Codec) -> None:
    codes = codec.encode(torch.zeros(1, 320))
    assert int(codes.max()) < small.C
    assert codec.decode(codes).isfinite().all()


def test_encode_and_decode_are_latent_quantizer_and_synthesis(codec: codecs.Codec) -> None:
    waveform = torch.randn(2, 64, generator=torch.Generator().manual_seed(0))
    quantized = codec.quantizer(codec.latent(waveform))
    assert torch.equal(codec.encode(waveform), quantized.codes)
    torch.testing.assert_close(codec.decode(quantized.codes), codec.synthesise(quantized.latent))


def test_a_causal_codec_works_while_the_music_goes_on() -> None:
    codec = new(causal=True, pad_mode="constant", lstm_layers=1)
    waveform = torch.randn(2, 320, generator=torch.Generator().manual_seed(0))
    codes = codec.encode(waveform)
    sound = codec.decode(codes)
    assert len(codes.unique()) > 2
    for frames in (1, 2, 9, 19):
        samples = frames * small.HOP
        assert torch.equal(codec.encode(waveform[:, :samples]), codes[..., :frames])
        torch.testing.assert_close(codec.decode(codes[..., :frames]), sound[:, :samples], rtol=1e-4, atol=1e-6)


def test_a_frame_of_the_latent_has_mean_square_1_unless_told_otherwise(codec: codecs.Codec) -> None:
    waveform = torch.randn(2, 64, generator=torch.Generator().manual_seed(0))
    latent = codec.latent(waveform)
    torch.testing.assert_close(latent.square().mean(1), torch.ones(2, 4), rtol=1e-2, atol=0)
    free = codecs.Codec(codec.configuration | {"latent_norm": False})
    free.load_state_dict(codec.state_dict())
    raw = free.latent(waveform)
    torch.testing.assert_close(raw, codec.encoder(waveform[:, None]))
    torch.testing.assert_close(torch.nn.functional.cosine_similarity(raw, latent), torch.ones(2, 4))


def test_clips_of_a_batch_do_not_touch(codec: codecs.Codec) -> None:
    waveform = torch.randn(3, 64, generator=torch.Generator().manual_seed(0))
    apart = torch.cat([codec.latent(one[None]) for one in waveform])
    torch.testing.assert_close(codec.latent(waveform), apart, rtol=1e-5, atol=1e-6)


def test_a_codec_comes_back_from_its_files_bit_by_bit(codec: codecs.Codec, folder: Path) -> None:
    again = codecs.load(folder)
    assert not again.training
    assert again.configuration == codec.configuration
    for name, value in codec.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
    assert read_json(folder / "model.json")["provenance"] == {"commit": "abc"}
    assert sorted(path.name for path in folder.iterdir()) == ["model.json", "model.safetensors"]


def test_the_configuration_leaves_out_what_only_training_reads() -> None:
    changed = small.settings({"learning_rate": 0.1}, every=3)
    assert codecs.configuration(changed, small.RATE, "residual") == codecs.configuration(
        small.settings(), small.RATE, "residual"
    )


def test_the_configuration_has_what_its_quantizer_is_made_from() -> None:
    keys = {
        kind: set(codecs.configuration(small.settings(), small.RATE, kind)) for kind in ("residual", "fsq", "cosine")
    }
    assert keys["fsq"] - keys["residual"] == {"levels"}
    assert keys["cosine"] - keys["residual"] == {"codebook_dimension"}
    assert keys["residual"] == keys["fsq"] & keys["cosine"]


@pytest.mark.parametrize(
    ("waveform", "complaint"),
    [
        (torch.zeros(1, 2, 64), r"\[B, T\] \(mono, 1600 Hz\), got \(1, 2, 64\)"),
        (torch.zeros(64), r"\[B, T\]"),
        (torch.zeros(1, 0), "no samples"),
        (torch.full((1, 64), torch.nan), "NaN or infinity"),
        (torch.full((1, 64), torch.inf), "NaN or infinity"),
    ],
)
def test_bad_waveforms_are_named(codec: codecs.Codec, waveform: torch.Tensor, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        codec.encode(waveform)


@pytest.mark.parametrize("name", ["model.json", "model.safetensors"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(ValueError, match=f"{name} is missing: train that codec first"):
        codecs.load(folder)


def test_weights_of_another_shape_are_named(folder: Path) -> None:
    model = read_json(folder / "model.json")
    model["configuration"]["dimension"] = 6
    write_json(folder / "model.json", model)
    with pytest.raises(ValueError, match=r"the weights do not fit model.json: size mismatch"):
        codecs.load(folder)


def test_a_configuration_of_another_version_is_named(folder: Path) -> None:
    model = read_json(folder / "model.json")
    del model["configuration"]["quantizer"]
    write_json(folder / "model.json", model)
    with pytest.raises(ValueError, match=r"model.json is of another version, train it anew: 'quantizer'"):
        codecs.load(folder)


def test_weights_that_lack_a_tensor_are_named(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    lost = max(name for name in tensors if name.startswith("quantizer."))
    tensors.pop(lost)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ValueError, match=rf"the weights do not fit model.json: .*{lost}"):
        codecs.load(folder)


def test_truncated_weights_are_named(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="the weights do not fit"):
        codecs.load(folder)


def test_another_rate_is_named(codec: codecs.Codec) -> None:
    codecs.expect_rate(codec, small.RATE, Path("x"))
    with pytest.raises(ValueError, match="results/x was trained at 1600 Hz and the corpus is at 16000 Hz"):
        codecs.expect_rate(codec, 16_000, Path("results/x"))
