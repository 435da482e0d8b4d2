"""EncodecModel of codecs with `latent_norm`.

A copy of this file lies beside the weights that `pipeline.exchange.encodec` exports; transformers loads the model from
it:

    AutoModel.from_pretrained("exported", trust_remote_code=True)
"""

from typing import Any

from torch import Tensor
from transformers import EncodecConfig, EncodecModel

NORM_EPSILON = 1e-6  # as in pipeline.codec.model, which is not there where the copy is


class LatentNormEncodecConfig(EncodecConfig):
    """EncodecConfig by a name of its own: EncodecModel with these weights decodes the same, and encodes otherwise."""

    model_type = "encodec_latent_norm"


class LatentNormEncodecModel(EncodecModel):
    """EncodecModel whose encoder scales each frame of the latent to mean square 1."""

    config_class = LatentNormEncodecConfig

    def __init__(self, config: LatentNormEncodecConfig) -> None:
        super().__init__(config)
        self.encoder.register_forward_hook(_scaled)


def _scaled(_encoder: Any, _inputs: Any, latent: Tensor) -> Tensor:
    """Latent `[B, D, T]`."""
    return latent * (latent.square().mean(dim=1, keepdim=True) + NORM_EPSILON).rsqrt()
