"""Codecs that others trained, behind the interface of this project's own (`pipeline.codec.model.Coder`).

Waveforms come and go at the corpus' rate, and are resampled to the model's own and back. Codes are the model's own, at
its own frame rate: those of the first K of its codebooks.

A folder is read by `pipeline.exchange.adopt`, which writes what `model.load` reads.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.audio import resample
from pipeline.codec.model import Codec, checked_waveform


class Pretrained(nn.Module, ABC):
    """A model that is trained already: what an entry of a table `PRETRAINED` in this folder has to be.

    `configuration` has its entry's name in the table as `pretrained`, the model's own configuration as `model`, the
    waveforms' `sample_rate`, and K as `codebooks`. `adopt` adds C as `codebook_size`.
    """

    rate: int  # the model's own, Hz
    hop: int  # samples of it in a frame
    sizes: list[int]  # of all its codebooks

    def __init__(self, configuration: dict[str, Any]) -> None:
        super().__init__()
        self.configuration = configuration
        self.sample_rate: int = configuration["sample_rate"]  # Hz
        self.network: Any = self.build(configuration["model"])

    @abstractmethod
    def build(self, configuration: dict[str, Any]) -> nn.Module:
        """The network of the model's own configuration; sets `rate`, `hop` and `sizes`."""

    @abstractmethod
    def codes_of(self, waveform: Tensor) -> Tensor:
        """All of the model's codes, `[B, K or more, ceil(T / hop)]`, of waveforms `[B, 1, T]` at its own rate."""

    @abstractmethod
    def waveform_of(self, codes: Tensor) -> Tensor:
        """The model's waveforms `[B, 1, T]` at its own rate of codes `[B, k, T']`."""

    @property
    def frame_rate(self) -> float:
        """Frames a second, Hz."""
        return self.rate / self.hop

    @torch.no_grad()
    def encode(self, waveform: Tensor) -> Tensor:
        """Codes `[B, K, T']` of waveforms `[B, T]`.

        Raises:
            ValueError: `waveform` is not `[B, T]`, is empty, or holds NaN or infinity.
        """
        own = resampled(checked_waveform(waveform, self.sample_rate), self.sample_rate, self.rate)
        return self.codes_of(own[:, None])[:, : self.configuration["codebooks"]]

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """Waveforms `[B, T]`, as long as their T' frames, of codes `[B, k, T']`, k at most K.

        A model whose output ends a few samples early, as one with odd strides does, ends in zeros.
        """
        own, length = self.waveform_of(codes)[:, 0], codes.shape[2] * self.hop
        return resampled(F.pad(own, (0, length - own.shape[1])), self.rate, self.sample_rate)


class FromTransformers(Pretrained):
    """A model of transformers: `config.json` and weights, as `save_pretrained` writes them.

    transformers is imported where it is needed, since that takes seconds, and never asks a hub.
    """

    names: ClassVar[tuple[str, str]]  # of its classes there: configuration, model

    @classmethod
    def classes(cls) -> tuple[Any, Any]:
        """Its configuration's class and its own."""
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        import transformers

        configuration, model = cls.names
        return getattr(transformers, configuration), getattr(transformers, model)

    @staticmethod
    def faults(config: Any) -> list[str]:
        """What is in the way of using a model with this configuration, in words."""
        return []

    def build(self, configuration: dict[str, Any]) -> nn.Module:
        """The network, its weights still to be read."""
        config_class, model_class = self.classes()
        config = config_class.from_dict(configuration)
        network = model_class(config)
        self.rate = config.sampling_rate
        self.hop, self.sizes = self.layout(network)
        return network

    @staticmethod
    @abstractmethod
    def layout(network: Any) -> tuple[int, list[int]]:
        """Samples a frame, and the size of each codebook."""


class Encodec(FromTransformers):
    """`EncodecModel` (Défossez et al. 2022) at its highest bandwidth, whose first codebooks are those of any lower."""

    names = ("EncodecConfig", "EncodecModel")

    @staticmethod
    def faults(config: Any) -> list[str]:
        """Stereo, chunks that overlap, and a scale beside the codes, as EnCodec's 48 kHz model has all three."""
        wanted = {"audio_channels": 1, "normalize": False, "chunk_length_s": None}
        return [
            f"{name} is {getattr(config, name)!r} and must be {value!r}"
            for name, value in wanted.items()
            if getattr(config, name) != value
        ]

    @staticmethod
    def layout(network: Any) -> tuple[int, list[int]]:
        """As the configuration and the quantizer's layers say."""
        return network.config.hop_length, [len(layer.codebook.embed) for layer in network.quantizer.layers]

    def codes_of(self, waveform: Tensor) -> Tensor:
        """All of the model's codes."""
        return self.network.encode(waveform, bandwidth=self.network.config.target_bandwidths[-1]).audio_codes[0]

    def waveform_of(self, codes: Tensor) -> Tensor:
        """The sum of the given codebooks' vectors, decoded."""
        return self.network.decode(codes[None], [None]).audio_values


class Dac(FromTransformers):
    """`DacModel` (Kumar et al. 2023); zeros fill up a clip's last frame, as by its feature extractor."""

    names = ("DacConfig", "DacModel")

    @staticmethod
    def layout(network: Any) -> tuple[int, list[int]]:
        """As the configuration and the quantizer's layers say."""
        return network.config.hop_length, [layer.codebook.num_embeddings for layer in network.quantizer.quantizers]

    def codes_of(self, waveform: Tensor) -> Tensor:
        """All of the model's codes."""
        return self.network.encode(F.pad(waveform, (0, -waveform.shape[2] % self.hop))).audio_codes

    def waveform_of(self, codes: Tensor) -> Tensor:
        """The sum of the given codebooks' vectors, decoded."""
        return self.network.decode(audio_codes=codes).audio_values[:, None]


class Mimi(FromTransformers):
    """`MimiModel` (Défossez et al. 2024), whose semantic codebook is the first.

    It quantizes the latent beside the acoustic ones, which are residual among themselves; all are streams alike here.
    """

    names = ("MimiConfig", "MimiModel")

    @staticmethod
    def faults(config: Any) -> list[str]:
        """Stereo."""
        return [f"audio_channels is {config.audio_channels} and must be 1"] * (config.audio_channels != 1)

    @staticmethod
    def layout(network: Any) -> tuple[int, list[int]]:
        """As the configuration and both quantizers' layers say, the semantic first."""
        both = network.quantizer
        parts = (both.semantic_residual_vector_quantizer, both.acoustic_residual_vector_quantizer)
        sizes = [layer.codebook.codebook_size for part in parts for layer in part.layers]
        return round(network.config.sampling_rate / network.config.frame_rate), sizes

    def codes_of(self, waveform: Tensor) -> Tensor:
        """All of the model's codes."""
        return self.network.encode(waveform).audio_codes

    def waveform_of(self, codes: Tensor) -> Tensor:
        """The sum of what the given codebooks say, decoded."""
        return self.network.decode(codes).audio_values


class Own(Pretrained):
    """A codec of this project, of another study or imported."""

    def build(self, configuration: dict[str, Any]) -> nn.Module:
        """The codec, its weights still to be read."""
        codec = Codec(configuration)
        self.rate, self.hop = codec.sample_rate, codec.hop_length
        self.sizes = [configuration["codebook_size"]] * configuration["codebooks"]
        return codec

    def codes_of(self, waveform: Tensor) -> Tensor:
        """All of the codec's codes."""
        return self.network.encode(waveform[:, 0])

    def waveform_of(self, codes: Tensor) -> Tensor:
        """The sum of the given codebooks' vectors, decoded."""
        return self.network.decode(codes)[:, None]


def resampled(waveform: Tensor, rate: int, target: int) -> Tensor:
    """Waveforms `[B, T]` from `rate` to `target` Hz, by `pipeline.audio.resample`."""
    if rate == target:
        return waveform
    return torch.from_numpy(resample(waveform.T.cpu().numpy(), rate, target).T.copy()).to(waveform.device)


# By the model's type in config.json of a folder in transformers' format, but for this project's own.
PRETRAINED: dict[str, Callable[[dict[str, Any]], Pretrained]] = {
    "encodec": Encodec,
    "dac": Dac,
    "mimi": Mimi,
    "own": Own,
}
