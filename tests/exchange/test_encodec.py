"""Codecs as EncodecModel of transformers and back: equal latents, codes and waveforms, or a sentence on why not."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import small
import torch
import yaml
from safetensors.torch import load_file, save_file
from studies import merged
from torch import Tensor
from torch.nn.utils.parametrize import remove_parametrizations

from pipeline import params
from pipeline.codec import model as codecs
from pipeline.codec import seanet
from pipeline.codec.quantizer import ResidualVectorQuantizer, VectorQuantizer
from pipeline.exchange import encodec
from pipeline.files import read_json, write_json

ROOT = Path(__file__).parents[2]
PARAMS = yaml.safe_load((ROOT / "params.yaml").read_text())
PAPER = yaml.safe_load((ROOT / "presets" / "paper.yaml").read_text())

# The oracle takes seconds to import.
pytestmark = pytest.mark.slow

SHAPES: dict[str, dict[str, Any]] = {
    "plain": {"lstm_layers": 1},
    "causal": {"lstm_layers": 2, "causal": True},
    "causal, zeros": {"lstm_layers": 1, "causal": True, "pad_mode": "constant"},
    "zeros, no LSTM": {"pad_mode": "constant"},
    "no LSTM": {},
    "deep, odd": {"lstm_layers": 1, "residual_layers": 3, "dilation_base": 3, "filters": 3, "ratios": [5, 3]},
    "deep, causal": {"residual_layers": 2, "dilation_base": 3, "residual_kernel_size": 5, "causal": True},
}
MANY = {"codebook_size": 64, "levels": [4, 4, 4], "codebooks": 3, "dimension": 6, "latent_norm": False}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(samples: int = 1600, clips: int = 2) -> Tensor:
    return 0.1 * torch.randn(clips, samples, generator=seeded())


def codec_of(settings: dict[str, Any], rate: int = small.RATE, quantizer: str = "residual") -> codecs.Codec:
    torch.manual_seed(0)
    seanet_settings = params.Codec.model_validate(settings).of("seanet")
    return codecs.Codec(codecs.configuration(seanet_settings, rate, quantizer)).eval()


def small_codec(quantizer: str = "residual", *, latent_norm: bool = False, **sizes: Any) -> codecs.Codec:
    """A codec whose signals have spread at every layer, and whose codebooks lie among its latents."""
    changes = MANY | {"latent_norm": latent_norm, "seanet": sizes}
    codec = codec_of(merged(small.CODEC, changes), quantizer=quantizer)
    spread(codec, noise())
    return codec


@torch.no_grad()
def spread(codec: codecs.Codec, waveform: Tensor) -> None:
    latent = seanet.scale_to_data(codec.encoder, waveform[:, None], 1.0)
    seanet.scale_to_data(codec.decoder, latent, 0.1)
    fill(codec.quantizer, latent)


def fill(quantizer: VectorQuantizer, latent: Tensor) -> None:
    """Puts the codes around what each codebook quantizes of latents `[B, D, T]`, at half its spread."""
    for k, codebook in enumerate(quantizer.codebooks):
        frames = quantizer(latent).inputs[:, k].transpose(1, 2).flatten(0, 1)
        codebook.copy_(frames[torch.randint(len(frames), (len(codebook),), generator=seeded(k))])
        codebook.add_(0.5 * frames.std(0) * torch.randn(codebook.shape, generator=seeded(k)))
    quantizer.sums.copy_(quantizer.codebooks)


def their_model(**changes: Any) -> Any:
    """An EncodecModel of random weights, its codebooks among its latents, from a configuration written out."""
    from transformers import EncodecConfig, EncodecModel

    config = {
        "target_bandwidths": [1.8],  # three codebooks of 6 bits at 100 Hz
        "sampling_rate": 1600,
        "upsampling_ratios": [4, 2, 2],
        "num_filters": 4,
        "hidden_size": 6,
        "codebook_size": 64,
        "use_conv_shortcut": False,
    }
    torch.manual_seed(0)
    model = EncodecModel(EncodecConfig(**config | changes)).eval()
    quantizer = ResidualVectorQuantizer(len(model.quantizer.layers), 64, 6)
    with torch.no_grad():
        fill(quantizer, model.encoder(noise()[:, None]))
    for layer, codebook in zip(model.quantizer.layers, quantizer.codebooks, strict=True):
        layer.codebook.embed.copy_(codebook)
    return model


@torch.no_grad()
def assert_same(codec: codecs.Codec, model: Any, waveform: Tensor, used: int) -> None:
    """Equal latents, codes, of which at least `used` a codebook are different ones, and waveforms."""
    torch.testing.assert_close(codec.latent(waveform), model.encoder(waveform[:, None]), rtol=1e-5, atol=1e-5)
    codes = model.encode(waveform[:, None], bandwidth=model.config.target_bandwidths[-1]).audio_codes[0]
    assert torch.equal(codec.encode(waveform), codes)
    assert min(len(stream.unique()) for stream in codes.unbind(1)) >= used
    sound = model.decode(codes[None], [None]).audio_values[:, 0]
    assert float(sound.std()) > 1e-3
    torch.testing.assert_close(codec.decode(codes), sound, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("sizes", SHAPES.values(), ids=SHAPES)
def test_a_codec_is_the_same_in_transformers_and_when_it_comes_back(sizes: dict[str, Any]) -> None:
    codec = small_codec(**sizes)
    model = encodec.to_transformers(codec)
    assert_same(codec, model, noise(), used=40)
    assert_same(codec, model, noise(samples=1), used=1)
    back = encodec.from_transformers(model)
    assert back.configuration == codec.configuration
    assert_same(back, model, noise(), used=40)
    for name, value in codec.quantizer.state_dict().items():
        torch.testing.assert_close(back.quantizer.state_dict()[name], value)


@pytest.mark.parametrize("pad_mode", ["constant", "reflect"])
def test_the_papers_codec_is_the_same_in_transformers(pad_mode: str) -> None:
    """The sizes of `facebook/encodec_32khz`, with audiocraft's default edges and with transformers'."""
    from transformers import EncodecConfig

    paper = merged(PARAMS, PAPER)
    params.leave_out(paper)
    codec = codec_of(merged(paper["codec"], {"seanet": {"pad_mode": pad_mode}}), rate=32_000)
    waveform = noise(samples=16_000)
    spread(codec, waveform)
    model = encodec.to_transformers(codec)
    published = EncodecConfig(
        target_bandwidths=[2.2],
        sampling_rate=32_000,
        num_filters=64,
        upsampling_ratios=[8, 5, 4, 4],
        codebook_size=2048,
        use_causal_conv=False,
        use_conv_shortcut=False,
        pad_mode=pad_mode,
    )
    assert model.config.to_dict() == published.to_dict()
    assert_same(codec, model, waveform, used=40)  # of 50 frames


@pytest.mark.parametrize(
    "changes",
    [
        {"use_causal_conv": False},
        {"use_causal_conv": True, "num_lstm_layers": 1},
        {"use_causal_conv": True, "pad_mode": "constant", "num_residual_layers": 2},
        {"use_causal_conv": False, "upsampling_ratios": (5, 3), "dilation_growth_rate": 3, "num_residual_layers": 3},
    ],
)
def test_a_model_of_transformers_is_the_same_here(changes: dict[str, Any]) -> None:
    model = their_model(**changes)
    assert_same(encodec.from_transformers(model), model, noise(), used=20)


def test_a_model_whose_weight_norm_was_removed_is_the_same_here() -> None:
    model = their_model()
    for layer in model.modules():
        if isinstance(layer, torch.nn.Conv1d | torch.nn.ConvTranspose1d):
            remove_parametrizations(layer, "weight")
    assert_same(encodec.from_transformers(model), model, noise(), used=20)


def test_a_grouped_quantizer_is_a_residual_one_of_codebooks_that_are_0_elsewhere() -> None:
    codec = small_codec(quantizer="grouped", lstm_layers=1)
    model = encodec.to_transformers(codec)
    assert_same(codec, model, noise(), used=40)
    back = encodec.from_transformers(model)
    assert back.configuration["quantizer"] == "residual"
    assert_same(back, model, noise(), used=40)


def test_codes_at_a_lower_bandwidth_are_the_first_streams() -> None:
    model = their_model(target_bandwidths=[0.6, 1.2, 1.8])
    codec = encodec.from_transformers(model)
    codes = codec.encode(noise())
    for streams, bandwidth in enumerate((0.6, 1.2, 1.8), start=1):
        theirs = model.encode(noise()[:, None], bandwidth=bandwidth).audio_codes[0]
        assert torch.equal(codes[:, :streams], theirs)
        sound = model.decode(theirs[None], [None]).audio_values[:, 0]
        torch.testing.assert_close(codec.decode(theirs), sound, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("codebooks", "size", "rate"), [(4, 2048, 50), (3, 32, 67), (6, 2048, 31), (1, 2048, 91)])
def test_no_codebook_is_lost_to_the_rounding_of_a_bandwidth(codebooks: int, size: int, rate: int) -> None:
    codec = codec_of(small.CODEC | MANY | {"codebooks": codebooks, "codebook_size": size}, rate=16 * rate)
    model = encodec.to_transformers(codec)
    assert len(model.quantizer.layers) == codebooks
    assert model.encode(noise()[:, None]).audio_codes.shape[2] == codebooks


def test_codebooks_go_on_from_how_often_their_codes_were_used() -> None:
    model = their_model()
    counts = torch.arange(64.0)
    for layer in model.quantizer.layers:
        layer.codebook.cluster_size.copy_(counts)
    quantizer = encodec.from_transformers(model).quantizer
    torch.testing.assert_close(quantizer.hits, (counts / counts.mean()).expand(3, 64))
    torch.testing.assert_close(quantizer.sums[:, 1:] / quantizer.hits[:, 1:, None], quantizer.codebooks[:, 1:])


def test_transformers_reads_what_is_written_and_the_other_way_round(tmp_path: Path) -> None:
    from transformers import AutoFeatureExtractor, EncodecModel

    codec = small_codec(lstm_layers=1)
    encodec.save_encodec(codec, tmp_path, {"commit": "abc"})
    files = ["config.json", "model.safetensors", "preprocessor_config.json", "provenance.json"]
    assert sorted(path.name for path in tmp_path.iterdir()) == files
    assert read_json(tmp_path / "provenance.json") == {"commit": "abc"}
    assert AutoFeatureExtractor.from_pretrained(tmp_path).sampling_rate == small.RATE
    model, found = EncodecModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(found.values())
    assert_same(codec, model, noise(), used=40)
    model.save_pretrained(tmp_path / "theirs")
    again = encodec.load_encodec(tmp_path / "theirs")
    assert again.configuration == codec.configuration
    assert_same(again, model, noise(), used=40)


def test_weights_by_the_names_of_published_checkpoints_are_read(tmp_path: Path) -> None:
    codec = small_codec(lstm_layers=1)
    encodec.save_encodec(codec, tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    for old, new in encodec.RENAMED.items():
        weights = {name.replace(new, old): value for name, value in weights.items()}
    assert "encoder.layers.0.conv.weight_g" in weights
    save_file(weights, tmp_path / "model.safetensors")
    assert torch.equal(encodec.load_encodec(tmp_path).encode(noise()), codec.encode(noise()))


def command(monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    monkeypatch.setattr(sys, "argv", ["encodec", *words])
    encodec.main()


def test_from_a_codecs_folder_to_transformers_and_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    codec = small_codec()
    codecs.save(codec, Path("codec"), {"seed": 0})
    command(monkeypatch, "export", "--model", "codec", "--out", "exported")
    assert read_json("exported/provenance.json") == {"seed": 0}
    command(monkeypatch, "import", "--model", "exported", "--out", "imported")
    assert torch.equal(codecs.load(Path("imported")).encode(noise()), codec.encode(noise()))
    assert read_json("imported/model.json")["provenance"]["params"]["encodec"].keys() == {
        "config.json",
        "model.safetensors",
    }
    with pytest.raises(ValueError, match="--out is codec, the model's own folder"):
        command(monkeypatch, "export", "--model", "codec", "--out", "codec")


@pytest.mark.parametrize("quantizer", ["residual", "grouped"])
def test_a_codec_with_latent_norm_comes_with_its_code(
    quantizer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoModel, EncodecModel

    from pipeline.exchange import latent_norm_encodec

    # Of a latent near 0 alone would another number be noticed.
    assert latent_norm_encodec.NORM_EPSILON == codecs.NORM_EPSILON
    monkeypatch.chdir(tmp_path)
    codec = small_codec(quantizer, latent_norm=True)
    codecs.save(codec, Path("codec"), {"seed": 0})
    command(monkeypatch, "export", "--model", "codec", "--out", "exported")
    theirs = AutoModel.from_pretrained("exported", trust_remote_code=True).eval()
    assert not type(theirs).__module__.startswith("pipeline")  # the copy, not this package's
    assert_same(codec, theirs, noise(), used=40)
    theirs.save_pretrained("theirs")
    again = encodec.load_encodec(Path("theirs"))
    assert again.configuration == codec.configuration | {"quantizer": "residual"}
    assert_same(again, theirs, noise(), used=40)

    plain = EncodecModel.from_pretrained("exported").eval()
    codes = codec.encode(noise())
    torch.testing.assert_close(plain.decode(codes[None], [None]).audio_values[:, 0], codec.decode(codes))


def stft_codec(quantizer: str = "residual", *, latent_norm: bool = True) -> codecs.Codec:
    """A codec with an STFT, prepared as for training, and its codebooks among its latents."""
    torch.manual_seed(0)
    settings = params.Codec.model_validate(small.codec("stft", **MANY | {"latent_norm": latent_norm})).of("stft")
    codec = codecs.Codec(codecs.configuration(settings, small.RATE, quantizer)).eval()
    codec.architecture.start(codec.encoder, codec.decoder, noise())
    with torch.no_grad():
        if isinstance(codec.quantizer, VectorQuantizer):
            fill(codec.quantizer, codec.latent(noise()))
    return codec


# Without this repository: the folder that `export` wrote, transformers, and the arrays' own file.
ALONE = """
import sys
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoFeatureExtractor, AutoModel

model = AutoModel.from_pretrained("exported", trust_remote_code=True).eval()
assert AutoFeatureExtractor.from_pretrained("exported").sampling_rate == model.config.sampling_rate
waveform = load_file("waveform.safetensors")["waveform"]
encoded = model.encode(waveform)
assert encoded.audio_scales == [None]
sound = model.decode(encoded.audio_codes, encoded.audio_scales).audio_values
assert torch.equal(model(waveform).audio_values, sound)
save_file({"codes": encoded.audio_codes.contiguous(), "sound": sound.contiguous()}, "found.safetensors")
model.save_pretrained("theirs")
assert not any(name.split(".")[0] == "pipeline" for name in sys.modules)
"""


@pytest.mark.parametrize(
    ("quantizer", "latent_norm"), [("residual", True), ("grouped", False), ("fsq", True), ("cosine", True)]
)
def test_a_codec_with_an_stft_comes_with_its_code(
    quantizer: str, latent_norm: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.exchange import stft_codec as module

    assert module.NORM_EPSILON == codecs.NORM_EPSILON
    monkeypatch.chdir(tmp_path)
    codec, waveform = stft_codec(quantizer, latent_norm=latent_norm), noise(samples=1603)
    codecs.save(codec, Path("codec"), {"seed": 0})
    command(monkeypatch, "export", "--model", "codec", "--out", "exported")
    code = ["cosine.py", "finite_scalar.py", "quantizer.py", "stft.py", "stft_codec.py"]
    files = ["config.json", "model.safetensors", "preprocessor_config.json", "provenance.json", *code]
    assert sorted(path.name for path in Path("exported").iterdir()) == sorted(files)

    save_file({"waveform": waveform[:, None]}, "waveform.safetensors")
    outside = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    outside |= {"HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(tmp_path / "modules")}
    subprocess.run([sys.executable, "-I", "-c", ALONE], env=outside, check=True)
    found = load_file("found.safetensors")
    codes = codec.encode(waveform)
    assert torch.equal(found["codes"], codes[None])
    assert min(len(stream.unique()) for stream in codes.unbind(1)) >= 15
    torch.testing.assert_close(found["sound"], codec.decode(codes)[:, None], rtol=1e-5, atol=1e-5)

    for folder in ("exported", "theirs"):
        command(monkeypatch, "import", "--model", folder, "--out", f"back from {folder}")
        back = codecs.load(Path(f"back from {folder}"))
        assert back.configuration == codec.configuration
        for name, value in codec.state_dict().items():
            assert torch.equal(back.state_dict()[name], value), name


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"codec": None}, "does not hold the configuration of a codec: .*NoneType"),
        ({"codec": {"sample_rate": 1600}}, "does not hold the configuration of a codec: 'dimension'"),
        ({"codec": "bins"}, "does not hold the configuration of a codec: "),
        ({"dimension": 3}, "the weights do not fit config.json: size mismatch"),
        ({"stft": small.SIZES["stft"] | {"hop": 3}}, "of a codec: stft: window .16. must be an even multiple"),
    ],
)
def test_a_folder_that_is_no_stft_codec_is_named(changes: dict[str, Any], complaint: str, tmp_path: Path) -> None:
    encodec.save_encodec(stft_codec(), tmp_path)
    config = read_json(tmp_path / "config.json")
    config |= changes if "codec" in changes else {"codec": config["codec"] | changes}
    write_json(tmp_path / "config.json", config)
    with pytest.raises(ValueError, match=complaint) as caught:
        encodec.load_encodec(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_quantizer_of_the_users_has_no_model() -> None:
    codec = stft_codec()
    codec.configuration["quantizer"] = "halves"
    with pytest.raises(ValueError, match="no model of transformers has this codec's quantizer, halves"):
        encodec.to_transformers(codec)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"codebook_size": 12}, "codebooks of 2, 4, 8, ... codes, and this codec's have 12"),
        ({"codebook_size": 1}, "and this codec's have 1"),
    ],
)
def test_what_transformers_cannot_be_is_named(changes: dict[str, Any], complaint: str, tmp_path: Path) -> None:
    codec = codec_of(small.codec(**MANY | changes))
    with pytest.raises(ValueError, match=complaint):
        encodec.save_encodec(codec, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("quantizer", ["fsq", "cosine"])
def test_a_quantizer_that_is_not_residual_is_named(quantizer: str) -> None:
    codec = codec_of(small.codec(**MANY), quantizer=quantizer)
    with pytest.raises(ValueError, match=f"quantizer is residual, and this codec's, {quantizer}, cannot become one"):
        encodec.to_transformers(codec)


def test_a_quantizer_that_joins_its_vectors_otherwise_is_no_residual_one() -> None:
    class Halving(ResidualVectorQuantizer):
        def _joined(self, vectors: Tensor) -> Tensor:
            return vectors.sum(1) / 2

    codec = small_codec()
    codec.configuration["quantizer"], codec.quantizer = "halves", Halving(3, 64, 6)
    with pytest.raises(ValueError, match="quantizer is residual, and this codec's, halves, cannot become one"):
        encodec.to_transformers(codec)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"use_conv_shortcut": True}, "use_conv_shortcut is True and must be False"),
        ({"compress": 4, "num_filters": 8}, "compress is 4 and must be 2"),
        ({"trim_right_ratio": 0.5}, "trim_right_ratio is 0.5 and must be 1.0"),
        ({"pad_mode": "replicate"}, "pad_mode is 'replicate' and must be 'reflect' or 'constant'"),
        ({"norm_type": "time_group_norm"}, "norm_type is 'time_group_norm' and must be 'weight_norm'"),
        ({"audio_channels": 2}, "audio_channels is 2 and must be 1"),
        ({"normalize": True}, "normalize is True and must be False"),
        ({"chunk_length_s": 1.0, "overlap": 0.01}, "chunk_length_s is 1.0 and must be None"),
        ({"codebook_dim": 3}, "codebook_dim is 3 and must be hidden_size, 6"),
        ({"normalize": True, "compress": 1}, "normalize is True and must be False; compress is 1 and must be 2"),
    ],
)
def test_what_no_codec_here_can_be_is_named(changes: dict[str, Any], complaint: str) -> None:
    from transformers import EncodecConfig, EncodecModel

    sizes = {"num_filters": 4, "hidden_size": 6, "codebook_size": 64, "use_conv_shortcut": False}
    model = EncodecModel(EncodecConfig(**sizes | changes))
    with pytest.raises(ValueError, match=f"this EncodecModel is not supported: {complaint}"):
        encodec.from_transformers(model)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    encodec.save_encodec(small_codec(), tmp_path)
    return tmp_path


def change(**values: Any) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        write_json(folder / "config.json", read_json(folder / "config.json") | values)

    return apply


def truncate(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def drop(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights.pop("encoder.layers.0.conv.bias")
    save_file(weights, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (lambda folder: (folder / "config.json").unlink(), "config.json is missing: give the folder of an EnCodec"),
        (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors is missing"),
        (change(model_type="dac"), "config.json describes a codec of type 'dac'"),
        (change(num_filters="many"), "config.json: .*num_filters"),
        (change(sampling_rate=None), "config.json: .*sampling_rate"),
        (change(sampling_rate=0), "sampling_rate is 0 and must be at least 1"),
        (change(codebook_size=1), "codebook_size is 1 and must be at least 2"),
        (change(upsampling_ratios=[]), r"upsampling_ratios is \[\] and must be one or more numbers"),
        (change(upsampling_ratios=[4, 0]), r"upsampling_ratios is \[4, 0\] and must be"),
        (change(target_bandwidths=[]), r"target_bandwidths is \[\], whose last must be enough for one codebook"),
        (change(target_bandwidths=[0.1]), r"target_bandwidths is \[0.1\], whose last must be enough"),
        (lambda folder: (folder / "config.json").write_text("[1]"), "config.json holds no JSON object"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json is not whole JSON"),
        (change(use_conv_shortcut=True), "use_conv_shortcut is True and must be False"),
        (change(num_filters=8), "the weights do not fit config.json: .*size mismatch"),
        (drop, "the weights do not fit config.json: .*encoder.layers.0.conv.bias"),
        (truncate, "model.safetensors is not a whole safetensors file"),
    ],
)
def test_a_folder_that_is_no_encodec_is_named(folder: Path, spoil: Callable[[Path], None], complaint: str) -> None:
    spoil(folder)
    with pytest.raises(ValueError, match=complaint) as caught:
        encodec.load_encodec(folder)
    assert "\n" not in str(caught.value)
