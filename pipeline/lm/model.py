"""Language model over codec tokens: one embedding and one head per codebook around a transformer that reads text."""

from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline import params
from pipeline.files import atomic, read_json, write_json
from pipeline.lm.patterns import Pattern, pattern
from pipeline.lm.transformer import Transformer


@dataclass(frozen=True)
class ModelShape:
    """What a language model is, beside its weights: the JSON saved with them."""

    pattern: str
    codebooks: int  # K
    codebook_size: int  # C
    frames: int  # T of the clips it was trained on
    text_dimension: int
    width: int
    heads: int
    layers: int
    feedforward: int
    dropout: float

    @classmethod
    def of(cls, sizes: params.LanguageModel, **rest: Any) -> "ModelShape":
        """The shape with the sizes that params.yaml gives, and the `rest`, which codec, text and pattern give."""
        return cls(**rest, **{name: getattr(sizes, name) for name in cls.__dataclass_fields__ if name not in rest})


class LanguageModel(nn.Module):
    """p(tokens | text) as a product over steps of a codebook pattern and, within a step, over codebooks.

    The input at step s is the sum over codebooks of the embeddings of what stands at step s - 1, the special token
    (index C) included, as in MusicGen. Heads are computed only for tokens that exist: K T of them for every pattern.
    """

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.shape = shape
        self.special = shape.codebook_size
        # Codebook k's rows begin at k (C + 1); one table lets one gather serve all codebooks.
        self.embedding = nn.Embedding(shape.codebooks * (self.special + 1), shape.width)
        nn.init.normal_(self.embedding.weight, std=shape.codebooks**-0.5)
        self.text_projection = nn.Linear(shape.text_dimension, shape.width)
        self.transformer = Transformer(
            width=shape.width,
            heads=shape.heads,
            layers=shape.layers,
            feedforward=shape.feedforward,
            dropout=shape.dropout,
        )
        self.heads = nn.Parameter(torch.randn(shape.codebooks, shape.codebook_size, shape.width) * 0.02)

    def forward(self, codes: Tensor, text: Tensor, text_mask: Tensor) -> Tensor:
        """Logits of every token given all tokens of earlier steps, and text.

        Args:
            codes: tokens `[B, K, T]`, int64.
            text: token states of the captions `[B, L, D]`.
            text_mask: which of them exist `[B, L]`, bool; a row of False is the null text.

        Returns:
            Logits `[B, K, T, C]`.
        """
        hidden = self.hidden(codes, text, text_mask)
        steps = self.pattern(codes.shape[2]).step.to(codes.device)
        logits = [F.linear(hidden.index_select(1, s), head) for s, head in zip(steps, self.heads, strict=True)]
        return torch.stack(logits, dim=1)

    def hidden(self, codes: Tensor, text: Tensor, text_mask: Tensor) -> Tensor:
        """What the heads of each step read of all earlier steps, and text, `[B, S, width]`; arguments of `forward`."""
        laid = F.pad(self.pattern(codes.shape[2]).lay_out(codes, self.special), (1, 0), value=self.special)
        return self.transformer(self.embed(laid[:, :, :-1]), *self.condition(text, text_mask))

    def embed(self, laid: Tensor) -> Tensor:
        """Sum over codebooks of the tokens' embeddings, `[B, K, S]` -> `[B, S, width]`."""
        batch, codebooks, steps = laid.shape
        rows = laid + self._offsets[:, None]
        bags = rows.transpose(1, 2).reshape(batch * steps, codebooks)
        return F.embedding_bag(bags, self.embedding.weight, mode="sum").unflatten(0, (batch, steps))

    def condition(self, text: Tensor, text_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Text as the transformer reads it: projected states, zero where masked, and where it may look.

        The null text is a single zero state: its keys and values are zero, so cross-attention adds nothing.
        """
        states = self.text_projection(text) * text_mask[..., None]
        visible = text_mask.clone()
        visible[:, 0] = True
        return states, visible

    def logits(self, hidden: Tensor, codebooks: slice) -> Tensor:
        """Logits of n neighbouring codebooks at one step, `[B, width]` -> `[B, n, C]`."""
        heads = self.heads[codebooks]
        return F.linear(hidden, heads.flatten(0, 1)).unflatten(1, heads.shape[:2])

    def pattern(self, frames: int) -> Pattern:
        """This model's codebook pattern for T = `frames`."""
        return _pattern(self.shape.pattern, self.shape.codebooks, frames)

    @cached_property
    def _offsets(self) -> Tensor:
        return torch.arange(self.shape.codebooks, device=self.embedding.weight.device) * (self.special + 1)


def cross_entropy(logits: Tensor, codes: Tensor) -> Tensor:
    """Nats of every token, `[B, K, T, C]` and `[B, K, T]` -> `[B, K, T]`; its mean is the training loss."""
    return F.cross_entropy(logits.flatten(0, 2), codes.flatten(), reduction="none").view(codes.shape)


def save(model: LanguageModel, folder: Path) -> None:
    """Writes `model.safetensors` and, last, `model.json`."""
    with atomic(folder / "model.safetensors") as temporary:
        save_file(model.state_dict(), temporary)
    write_json(folder / "model.json", asdict(model.shape))


def load(folder: Path | str) -> LanguageModel:
    """Reads what `save` wrote, ready to sample from.

    Raises:
        ValueError: the folder lacks a file, or its weights are not those of its configuration.
    """
    folder = Path(folder)
    missing = [name for name in ("model.json", "model.safetensors") if not (folder / name).exists()]
    if missing:
        raise ValueError(f"{folder} holds no language model: {' and '.join(missing)} missing; train one there first")
    model = LanguageModel(ModelShape(**read_json(folder / "model.json")))
    try:
        model.load_state_dict(load_file(folder / "model.safetensors"))
    except RuntimeError as error:
        raise ValueError(f"{folder / 'model.safetensors'} does not fit model.json beside it: {error}") from None
    return model.eval()


@lru_cache(maxsize=8)
def _pattern(name: str, codebooks: int, frames: int) -> Pattern:
    return pattern(name, codebooks, frames)
