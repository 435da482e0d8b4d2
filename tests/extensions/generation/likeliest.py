"""A decoding mode in one file: always the likeliest token."""

from torch import Tensor

from pipeline.generation.sampling import Draw, factorised
from pipeline.lm.model import LanguageModel


def likeliest(
    model: LanguageModel,
    hidden: Tensor,
    standing: Tensor,
    codebooks: slice,
    uniform: Tensor,
    *,
    guidance_scale: float,
    top_k: int,
    temperature: float,
) -> Tensor:
    """As `factorised`, of the single likeliest token."""
    how = {"guidance_scale": guidance_scale, "top_k": 1, "temperature": 1.0}
    return factorised(model, hidden, standing, codebooks, uniform, **how)


DECODINGS: dict[str, Draw] = {"likeliest": likeliest}
