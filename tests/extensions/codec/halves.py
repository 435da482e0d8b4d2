"""A quantizer in one file: residual, each codebook taking away half of what it says."""

from torch import Tensor

from pipeline.codec.quantizer import ResidualVectorQuantizer


class HalvingQuantizer(ResidualVectorQuantizer):
    """Codebook k quantizes z - sum_{j<k} q_j / 2, and the latent is sum_k q_k / 2."""

    def _left(self, left: Tensor, vectors: Tensor) -> Tensor:
        return left - vectors / 2

    def _inputs(self, latent: Tensor, vectors: Tensor) -> Tensor:
        return latent[:, None] - (vectors.cumsum(1) - vectors) / 2

    def _joined(self, vectors: Tensor) -> Tensor:
        return vectors.sum(1) / 2


QUANTIZERS = {"halves": HalvingQuantizer}
