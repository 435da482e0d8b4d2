"""Language model over codec tokens: one embedding and one head per codebook around a transformer that reads text."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline import params
from pipeline.files import atomic, read_json, write_json
from pipeline.lm.depth import Head
from pipeline.lm.patterns import Pattern, crops, pattern
from pipeline.lm.transformer import Rotation, Transformer, rotary_2d, sinusoids


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
    positions: str = "sinusoidal"  # which files of models from before there was a choice do not say
    depth: int = 0  # rank of heads that see a step's earlier codes; 0: none, as in files that do not say

    @classmethod
    def of(cls, sizes: params.LanguageModel, **rest: Any) -> "ModelShape":
        """The shape with the sizes that params.yaml gives, and the `rest`, which codec, text and pattern give."""
        names = cls.__dataclass_fields__.keys() - rest.keys() - {"depth"}
        return cls(**rest, **{name: getattr(sizes, name) for name in names})


class LanguageModel(nn.Module):
    """p(tokens | text) as a product over steps of a codebook pattern and, within a step, over codebooks.

    With depth heads, a codebook is also given the codes of the same step that come before it, and a step is modelled
    jointly, as by RQ-Transformer (Lee et al. 2022). Differs from it in the depth model, a gated head of low rank a
    codebook instead of a transformer.

    The input at step s is the sum over codebooks of the embeddings of what stands at step s - 1, the special token
    (index C) included, as in MusicGen. Heads are computed only for tokens that exist: K T of them for every pattern.
    Positions are those of the steps or, `rotary_2d`, the places (frame, codebook) of the tokens that steps predict.
    """

    def __init__(self, shape: ModelShape) -> None:
        """Raises ValueError where positions are `rotary_2d`, and steps have no places or heads no pairs to share."""
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
        deep = range(1, shape.codebooks) if shape.depth else ()
        stack = nn.ModuleList(Head(k, shape.codebook_size, shape.width, shape.depth) for k in deep)
        self.depth = cast("Sequence[Head]", stack)
        self.rotation(self.pattern(shape.frames))

    def forward(self, codes: Tensor, text: Tensor, text_mask: Tensor, window: Tensor | None = None) -> Tensor:
        """Logits of every token given text and all tokens of earlier steps; with depth heads, also of its own step.

        A crop is the steps at which its frames' tokens stand, at their positions in the clip and with the inputs that
        they have there: its first step sees the codes of the step before it, and no further back.

        Args:
            codes: tokens `[B, K, T]`, int64.
            text: token states of the captions `[B, L, D]`.
            text_mask: which of them exist `[B, L]`, bool; a row of False is the null text.
            window: a crop's n neighbouring frames in each clip, `[B, n]`, int64; without it, all T of them.

        Returns:
            Logits `[B, K, n, C]`.
        """
        layout = self.pattern(codes.shape[2])
        if window is None:
            hidden = self.hidden(codes, text, text_mask)
            states = [hidden.index_select(1, steps) for steps in layout.step.to(codes.device)]
        else:
            inputs = self._inputs(codes)
            steps, place = (x.to(codes.device)[window[:, 0]] for x in crops(layout, window.shape[1]))
            inputs = inputs.gather(2, steps[:, None].expand(-1, len(self.heads), -1))
            rotation = self.rotation(layout)
            positions = (
                sinusoids(layout.steps, self.shape.width).to(codes.device)[steps]
                if rotation is None
                else rotation.at(steps[:, None])
            )
            hidden = self.transformer(self.embed(inputs), *self.condition(text, text_mask), positions)
            states = [hidden.gather(1, at[..., None].expand(-1, -1, hidden.shape[2])) for at in place.unbind(1)]
        logits = [F.linear(x, head) for x, head in zip(states, self.heads, strict=True)]
        if self.depth:
            laid, at = layout.lay_out(codes, self.special), layout.step.to(codes.device)
            for k in range(1, len(logits)):
                steps = at[k].expand(len(codes), -1) if window is None else at[k][window]
                earlier = laid[:, :k].gather(2, steps[:, None].expand(-1, k, -1))
                logits[k] = self._deepened(k, logits[k], states[k], earlier.transpose(1, 2))
        return torch.stack(logits, dim=1)

    @torch.no_grad()
    def start_at(self, log_shares: Tensor) -> None:
        """Lets the untrained model predict the codes' shares p, given as log p `[K, C]`, whatever its input.

        MusicGen's heads have no bias that could start at log p. So the last norm's first coordinate starts constant at
        1, and its column of the heads at log p less the mean.
        """
        self.transformer.norm.weight[0], self.transformer.norm.bias[0] = 0, 1
        self.heads.zero_()
        self.heads[:, :, 0] = log_shares - log_shares.mean(dim=1, keepdim=True)

    def hidden(self, codes: Tensor, text: Tensor, text_mask: Tensor) -> Tensor:
        """What the heads of each step read of all earlier steps, and text, `[B, S, width]`; arguments of `forward`."""
        rotation = self.rotation(self.pattern(codes.shape[2]))
        return self.transformer(self.embed(self._inputs(codes)), *self.condition(text, text_mask), rotation)

    def _inputs(self, codes: Tensor) -> Tensor:
        """What stands one step before each step, `[B, K, T]` -> `[B, K, S]`."""
        laid = self.pattern(codes.shape[2]).lay_out(codes, self.special)
        return F.pad(laid, (1, 0), value=self.special)[:, :, :-1]

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

    def logits(self, hidden: Tensor, codebooks: slice, standing: Tensor | None = None) -> Tensor:
        """Logits of n neighbouring codebooks at one step, `[B, width]` -> `[B, n, C]`.

        Depth heads read the step's tokens `standing` `[B, K]`, the special one where none stands; without it, none do.
        Guidance's 2 B rows share those of B.
        """
        heads = self.heads[codebooks]
        logits = F.linear(hidden, heads.flatten(0, 1)).unflatten(1, heads.shape[:2])
        if not self.depth or standing is None:
            return logits
        standing = standing.repeat(len(hidden) // len(standing), 1)
        numbers = range(len(self.heads))[codebooks]
        parts = zip(numbers, logits.unbind(1), strict=True)
        return torch.stack([self._deepened(k, x, hidden, standing[:, :k]) if k else x for k, x in parts], dim=1)

    def _deepened(self, k: int, logits: Tensor, hidden: Tensor, earlier: Tensor) -> Tensor:
        """Logits `[..., C]` of codebook k, corrected by its depth head where all codes before it, `[..., k]`, stand."""
        stands = (earlier < self.special).all(dim=-1, keepdim=True)
        codes = earlier.clamp_max(self.special - 1).flatten(0, -2).T
        corrected = self.depth[k - 1](logits.flatten(0, -2), hidden.flatten(0, -2), codes).view_as(logits)
        return torch.where(stands, corrected, logits)

    def pattern(self, frames: int) -> Pattern:
        """This model's codebook pattern for T = `frames`."""
        return _pattern(self.shape.pattern, self.shape.codebooks, frames)

    def rotation(self, layout: Pattern) -> Rotation | None:
        """Of each step of a pattern by its place, `[S, d]`; None where positions are sinusoidal."""
        if self.shape.positions == "sinusoidal":
            return None
        try:
            places = layout.places
        except ValueError as error:
            raise ValueError(
                f"lm.positions is rotary_2d, and pattern '{self.shape.pattern}' has no places: {error}"
            ) from None
        return rotary_2d(places.to(self.heads.device), self.shape.width // self.shape.heads)

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
