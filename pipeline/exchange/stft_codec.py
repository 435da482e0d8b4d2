"""The codec with an STFT as a model of transformers, which has none of that kind.

`pipeline.exchange.encodec` writes a copy of this file and of those that it imports beside the weights; transformers
loads the model from them:

    AutoModel.from_pretrained("exported", trust_remote_code=True)
"""

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.models.encodec.modeling_encodec import EncodecDecoderOutput, EncodecEncoderOutput

from pipeline.codec.cosine import QUANTIZERS as COSINE
from pipeline.codec.finite_scalar import QUANTIZERS as FINITE_SCALAR
from pipeline.codec.quantizer import QUANTIZERS as VECTOR
from pipeline.codec.stft import STFT, Spectrum

QUANTIZERS = VECTOR | FINITE_SCALAR | COSINE

NORM_EPSILON = 1e-6  # as in pipeline.codec.model, which is not there where the copy is


class StftCodecConfig(PretrainedConfig):
    """What the networks are built from, as `model.json` of a codec has it."""

    model_type = "stft_codec"

    def __init__(self, codec: dict[str, Any] | None = None, **rest: Any) -> None:
        super().__init__(**rest)
        self.codec = codec or {}

    @property
    def sampling_rate(self) -> int:
        """Hz."""
        return int(self.codec["sample_rate"])


class StftCodecModel(PreTrainedModel):
    """Waveforms to codes and back by the methods, and in the shapes, of EncodecModel."""

    config_class = StftCodecConfig
    main_input_name = "input_values"

    def __init__(self, config: StftCodecConfig) -> None:
        super().__init__(config)
        codec, stft = config.codec, config.codec["stft"]
        sizes: Any = SimpleNamespace(**stft, bins=stft["window"] // 2 + 1, hop_length=stft["hop"] * stft["joined"])
        network = STFT(sizes, codec["dimension"])
        self.encoder, self.decoder = network.encoder, network.decoder
        self.quantizer = QUANTIZERS[codec["quantizer"]].of(codec)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        # `from_pretrained` builds the networks without memory, and no file holds the window.
        if isinstance(module, Spectrum):
            module.window.copy_(Spectrum(module.size, module.hop).window)

    @torch.no_grad()
    def encode(self, input_values: Tensor) -> EncodecEncoderOutput:
        """Codes `[1, B, K, T']` of waveforms `[B, 1, T]`."""
        latent = self.encoder(input_values)
        if self.config.codec["latent_norm"]:
            latent = latent * (latent.square().mean(dim=1, keepdim=True) + NORM_EPSILON).rsqrt()
        codes: Any = self.quantizer.encode(latent)[None]
        scales: Any = [None]
        return EncodecEncoderOutput(audio_codes=codes, audio_scales=scales)

    @torch.no_grad()
    def decode(self, audio_codes: Tensor, audio_scales: list[None] | None = None) -> EncodecDecoderOutput:
        """Waveforms `[B, 1, T' hop]` of codes `[1, B, K, T']`; there are no scales."""
        return EncodecDecoderOutput(audio_values=self.decoder(self.quantizer.decode(audio_codes[0])))

    def forward(self, input_values: Tensor) -> EncodecDecoderOutput:
        """What is left of waveforms `[B, 1, T]`."""
        codes: Any = self.encode(input_values).audio_codes
        return self.decode(codes)
