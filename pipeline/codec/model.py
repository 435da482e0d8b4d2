"""The neural audio codec: a network around a quantizer (EnCodec), its files, waveforms to codes and back."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pipeline.codec.quantizer import Quantizer
from pipeline.files import atomic, read_json, write_json
from pipeline.params import CodecSettings, checked, choice

NORM_EPSILON = 1e-6  # added to a frame's mean square
AT_ONCE = 2  # clips in one call; more only push the activations out of a processor's cache


class Architecture(Protocol):
    """The networks around the quantizer: what an entry of a table `ARCHITECTURES` in this folder has to be."""

    Sizes: type[Any]  # its section of the parameters, which tells `hop_length` in samples
    encoder: nn.Module  # [B, 1, T] -> [B, D, ceil(T / hop)]
    decoder: nn.Module  # [B, D, T'] -> [B, 1, T' hop]

    def __init__(self, sizes: Any, dimension: int) -> None:
        """Networks of these sizes around a latent of D = `dimension`."""

    @staticmethod
    def start(encoder: Any, decoder: Any, waveform: Tensor) -> None:
        """Prepares fresh networks for training on waveforms like `waveform` `[B, T]`."""


class Coder(Protocol):
    """A codec as jobs use it, whoever trained it: a `Codec`, or an entry of a table `PRETRAINED` in this folder."""

    configuration: dict[str, Any]  # what it is built from; `codebooks` is K, `codebook_size` C
    sample_rate: int  # of waveforms, Hz

    @property
    def frame_rate(self) -> float:
        """Frames a second, Hz."""

    def encode(self, waveform: Tensor) -> Tensor:
        """Codes `[B, K, T']` of waveforms `[B, T]`."""

    def decode(self, codes: Tensor) -> Tensor:
        """Waveforms `[B, T]` of codes `[B, k, T']`; codebooks past the k that are given add nothing."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """Its weights."""

    def state_dict(self) -> dict[str, Any]:
        """Its weights by name."""


class Codec(nn.Module):
    """Waveforms `[B, T]` to codes `[B, K, T / hop]` and back."""

    def __init__(self, configuration: dict) -> None:
        """`configuration` is what `configuration()` makes of the parameters."""
        super().__init__()
        self.configuration = configuration
        self.sample_rate: int = configuration["sample_rate"]  # Hz
        dimension, name = configuration["dimension"], configuration["architecture"]
        self.architecture: type[Architecture] = choice("ARCHITECTURES", name)
        sizes = checked(self.architecture.Sizes, configuration[name], name)
        self.hop_length: int = sizes.hop_length  # samples
        network = self.architecture(sizes, dimension)
        self.encoder, self.decoder = network.encoder, network.decoder
        self.quantizer: Quantizer = choice("QUANTIZERS", configuration["quantizer"]).of(configuration)

    @property
    def frame_rate(self) -> float:
        """Frames a second, Hz."""
        return self.sample_rate / self.hop_length

    def latent(self, waveform: Tensor) -> Tensor:
        """z, `[B, T]` -> `[B, D, ceil(T / hop)]`; with `latent_norm`, each frame has mean square 1.

        Differs from EnCodec in that norm. Without it the latent's scale is free: within a few hundred steps it either
        outgrows the codebooks, which follow as moving averages, or the commitment pulls it, and every code, to 0.

        Raises:
            ValueError: `waveform` is not `[B, T]`, is empty, or holds NaN or infinity.
        """
        latent = self.encoder(checked_waveform(waveform, self.sample_rate)[:, None])
        if self.configuration["latent_norm"]:
            latent = latent * (latent.square().mean(dim=1, keepdim=True) + NORM_EPSILON).rsqrt()
        return latent

    def synthesise(self, latent: Tensor) -> Tensor:
        """Waveform `[B, T' hop]` of a latent `[B, D, T']`."""
        return self.decoder(latent)[:, 0]

    @torch.no_grad()
    def encode(self, waveform: Tensor) -> Tensor:
        """Codes `[B, K, ceil(T / hop)]` of waveforms `[B, T]`."""
        return self.quantizer.encode(self.latent(waveform))

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """Waveforms `[B, T' hop]` of codes `[B, K, T']`."""
        return self.synthesise(self.quantizer.decode(codes))


def checked_waveform(waveform: Tensor, sample_rate: int) -> Tensor:
    """`waveform`, if it is `[B, T]` with T > 0 and finite; ValueError otherwise."""
    if waveform.ndim != 2:
        raise ValueError(f"waveform must be [B, T] (mono, {sample_rate} Hz), got {tuple(waveform.shape)}")
    if waveform.shape[1] == 0:
        raise ValueError("waveform has no samples")
    if not waveform.isfinite().all():
        raise ValueError("waveform holds NaN or infinity")
    return waveform


def configuration(params: CodecSettings, sample_rate: int, quantizer: str) -> dict:
    """The parameters that the network is built from, as JSON-ready values."""
    return {
        "sample_rate": sample_rate,
        "quantizer": quantizer,
        "codebooks": params.codebooks,
        "codebook_size": params.codebook_size,
        "latent_norm": params.latent_norm,
        "dimension": params.dimension,
        **{name: getattr(params, name) for name in choice("QUANTIZERS", quantizer).settings},
        "architecture": params.architecture,
        params.architecture: params.sizes.model_dump(mode="json"),
    }


def save(codec: Coder, folder: Path, origin: dict | None = None) -> None:
    """Writes `model.safetensors` and beside it `model.json`, the configuration and where the weights come from."""
    with atomic(folder / "model.safetensors") as temporary:
        save_file({name: value.contiguous() for name, value in codec.state_dict().items()}, temporary)
    write_json(folder / "model.json", {"configuration": codec.configuration, "provenance": origin})


def load(folder: Path, device: torch.device | str = "cpu") -> Coder:
    """Reads what `save` wrote, for inference.

    Raises:
        ValueError: a file is missing, the configuration is another version's, or the weights do not fit it.
    """
    for name in ("model.json", "model.safetensors"):
        if not (folder / name).exists():
            raise ValueError(f"{folder / name} is missing: train that codec first, or give the folder of one")
    try:
        configuration = read_json(folder / "model.json")["configuration"]
        kind = choice("PRETRAINED", configuration["pretrained"]) if "pretrained" in configuration else Codec
        codec = kind(configuration)
    except (KeyError, TypeError) as error:
        raise ValueError(f"{folder / 'model.json'} is of another version, train it anew: {error}") from None
    try:
        codec.load_state_dict(load_file(folder / "model.safetensors"))
    except (RuntimeError, SafetensorError) as error:
        raise ValueError(
            f"{folder}: the weights do not fit model.json: {str(error).splitlines()[-1].strip()}"
        ) from None
    coder: Coder = codec.to(device).eval()
    return coder


def expect_rate(codec: Coder, sample_rate: int, origin: Path) -> None:
    """Raises ValueError where the codec is for another rate than the audio's, in Hz."""
    if codec.sample_rate != sample_rate:
        raise ValueError(f"{origin} was trained at {codec.sample_rate} Hz and the corpus is at {sample_rate} Hz")
