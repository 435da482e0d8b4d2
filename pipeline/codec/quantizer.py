"""Quantizers of K codebooks; two learned as moving averages: residual (EnCodec, section 3.2) and grouped."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal, NamedTuple, Self, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Stream = Literal["quantized", "input", "residual", "embedding", "time"]


class Quantized(NamedTuple):
    """A latent and its codes; D' is what one codebook quantizes: D, D / K where grouped, or what D is projected to."""

    latent: Tensor  # [B, D, T], what the codes stand for; its gradient to the input is that of no quantizing
    codes: Tensor  # [B, K, T], integers
    inputs: Tensor  # [B, K, D', T], what codebook k quantizes, with its gradient to the latent: earlier codes are fixed
    vectors: Tensor  # [B, K, D', T], q_k, without gradient
    commitment: Tensor  # scalar, mean squared distance of each codebook's input to its code; 0 where none is needed


class Quantizer(nn.Module):
    """K codebooks of C codes: what an entry of a table `QUANTIZERS` in this folder has to be.

    A codebook may be learned by gradient, its parameters being the codec's, or follow the latents by `initialise` and
    `update`, which do nothing here.
    """

    settings: ClassVar[tuple[str, ...]] = ()  # what it is made from beside K, C and D: keys of the section `codec`
    ordered: ClassVar[bool] = False  # whether its first codebooks stand for a coarser latent, as residual ones do

    def __init__(self, codebooks: int, codebook_size: int) -> None:
        """`codebooks` is K and `codebook_size` is C."""
        super().__init__()
        self.count, self.size = codebooks, codebook_size

    @classmethod
    def of(cls, configuration: Mapping[str, Any]) -> Self:
        """The quantizer of a codec's configuration."""
        sizes = (configuration[name] for name in ("codebooks", "codebook_size", "dimension"))
        return cls(*sizes, **{name: configuration[name] for name in cls.settings})

    def forward(self, latent: Tensor, kept: Tensor | None = None) -> Quantized:
        """Quantizes `[B, D, T]`; the latent that comes back is of the first `kept` `[B]` codebooks alone, if given."""
        raise NotImplementedError

    @torch.no_grad()
    def encode(self, latent: Tensor) -> Tensor:
        """Codes `[B, K, T]` of `[B, D, T]`."""
        codes: Tensor = self(latent).codes
        return codes

    def vectors(self, codes: Tensor) -> Tensor:
        """q_k `[B, K, D', T]` of codes `[B, K, T]`; K may be less than there are codebooks.

        Raises:
            ValueError: there are more streams than codebooks, or a code outside its codebook.
        """
        if codes.ndim != 3 or not 0 < codes.shape[1] <= self.count:
            raise ValueError(f"codes must be [B, K, T] with K up to {self.count}, got {tuple(codes.shape)}")
        if codes.numel() and (int(codes.min()) < 0 or int(codes.max()) >= self.size):
            raise ValueError(
                f"codes lie in [{int(codes.min())}, {int(codes.max())}], the codebooks in [0, {self.size - 1}]"
            )
        return self._chosen(codes.long())

    def decode(self, codes: Tensor) -> Tensor:
        """The latent `[B, D, T]` that codes `[B, K, T]` stand for; codebooks without codes add 0.

        Raises:
            ValueError: there are more streams than codebooks, or a code outside its codebook.
        """
        return self._joined(self.vectors(codes))

    def initialise(self, latent: Tensor, iterations: int, generator: torch.Generator) -> None:
        """Prepares the codebooks for latents like `[B, D, T]`; a k-means takes `iterations`."""

    def update(self, latent: Tensor, *, decay: float, dead_share: float, generator: torch.Generator) -> None:
        """Moves the codebooks after a step that quantized the latents `[B, D, T]`."""

    def _chosen(self, codes: Tensor) -> Tensor:
        """q_k `[B, K, D', T]` of codes `[B, K, T]`."""
        raise NotImplementedError

    def _joined(self, vectors: Tensor) -> Tensor:
        """The latent `[B, D, T]` that vectors `[B, K, D', T]` stand for."""
        raise NotImplementedError


class VectorQuantizer(Quantizer):
    """K codebooks of C vectors, each a moving average of its inputs; subclasses say which inputs a codebook gets."""

    codebooks: Tensor  # [K, C, D']
    hits: Tensor  # [K, C], moving average of the frames assigned to each code; 1 is an equal share of a batch
    sums: Tensor  # [K, C, D'], moving average of their sum, in the same unit

    def __init__(self, codebooks: int, codebook_size: int, dimension: int) -> None:
        """Codebooks start at 0; `initialise` fills them."""
        super().__init__(codebooks, codebook_size)
        self.register_buffer("codebooks", torch.zeros(codebooks, codebook_size, dimension))
        self.register_buffer("hits", torch.ones(codebooks, codebook_size))
        self.register_buffer("sums", torch.zeros(codebooks, codebook_size, dimension))

    def forward(self, latent: Tensor, kept: Tensor | None = None) -> Quantized:
        """Quantizes `[B, D, T]`; the codebooks get no gradient, the latent's passes straight through."""
        codes = self.encode(latent)
        vectors = self.vectors(codes)
        inputs = self._inputs(latent, vectors)
        commitment = (inputs - vectors).square().mean()
        joined = self._joined(vectors if kept is None else first(vectors, kept))
        return Quantized(latent + (joined - latent).detach(), codes, inputs, vectors, commitment)

    @torch.no_grad()
    def encode(self, latent: Tensor) -> Tensor:
        """Codes `[B, K, T]` of `[B, D, T]`."""
        codes: list[Tensor] = []

        def assign(k: int, inputs: Tensor) -> Tensor:
            codes.append(_nearest(inputs, self.codebooks[k]))
            return self.codebooks[k][codes[-1]]

        self._walk(latent, assign)
        return torch.stack(codes).unflatten(1, (len(latent), -1)).transpose(0, 1)

    @torch.no_grad()
    def initialise(self, latent: Tensor, iterations: int, generator: torch.Generator) -> None:
        """Sets the codebooks to k-means centres of what each quantizes of the latents `[B, D, T]`."""

        def fit(k: int, inputs: Tensor) -> Tensor:
            self.codebooks[k] = _kmeans(inputs, self.codebooks.shape[1], iterations, generator)
            return self.codebooks[k][_nearest(inputs, self.codebooks[k])]

        self._walk(latent, fit)
        self.sums.copy_(self.codebooks)
        self.hits.fill_(1)

    @torch.no_grad()
    def update(self, latent: Tensor, *, decay: float, dead_share: float, generator: torch.Generator) -> None:
        """Moves the codebooks towards the latents `[B, D, T]` they were chosen for (EnCodec, section 3.2).

        A code whose moving average falls under `dead_share` of an equal share of the batch is put on a random frame.
        Differs from EnCodec in that share: its fixed threshold of 2 hits a batch would replace every code of a batch
        with fewer than 2 C frames.
        """
        size = self.codebooks.shape[1]

        def move(k: int, inputs: Tensor) -> Tensor:
            nearest = _nearest(inputs, self.codebooks[k])
            vectors = self.codebooks[k][nearest]
            hits = torch.zeros(size, device=inputs.device).index_add_(0, nearest, torch.ones_like(inputs[:, 0]))
            sums = torch.zeros_like(self.sums[k]).index_add_(0, nearest, inputs)
            share = len(inputs) / size
            self.hits[k].lerp_(hits / share, 1 - decay)
            self.sums[k].lerp_(sums / share, 1 - decay)
            dead = self.hits[k] < dead_share
            if dead.any():
                picks = torch.randint(len(inputs), (int(dead.sum()),), generator=generator).to(inputs.device)
                self.hits[k][dead] = 1
                self.sums[k][dead] = inputs[picks]
            self.codebooks[k] = self.sums[k] / self.hits[k].clamp_min(1e-6)[:, None]
            return vectors

        self._walk(latent, move)

    def _walk(self, latent: Tensor, quantize: Callable[[int, Tensor], Tensor]) -> None:
        """Hands each codebook in turn what it quantizes, `[N, D']`, and goes on with what its vectors leave."""
        left = latent.transpose(1, 2).flatten(0, 1)
        for k in range(len(self.codebooks)):
            inputs = self._next(left)
            left = self._left(left, quantize(k, inputs))

    def _chosen(self, codes: Tensor) -> Tensor:
        chosen = [codebook[used] for codebook, used in zip(self.codebooks, codes.unbind(1), strict=False)]
        return torch.stack(chosen).permute(1, 0, 3, 2)

    def _next(self, left: Tensor) -> Tensor:
        """What the next codebook quantizes of what is left of the frames, `[N, D']`."""
        raise NotImplementedError

    def _left(self, left: Tensor, vectors: Tensor) -> Tensor:
        """What is left of the frames after a codebook's vectors `[N, D']`."""
        raise NotImplementedError

    def _inputs(self, latent: Tensor, vectors: Tensor) -> Tensor:
        """What codebook k quantizes, `[B, K, D', T]`, of `[B, D, T]` where the codebooks chose `[B, K, D', T]`."""
        raise NotImplementedError


class ResidualVectorQuantizer(VectorQuantizer):
    """Codebook k quantizes what the ones before it left, z - sum_{j<k} q_j (EnCodec, section 3.2)."""

    ordered = True

    def _next(self, left: Tensor) -> Tensor:
        return left

    def _left(self, left: Tensor, vectors: Tensor) -> Tensor:
        return left - vectors

    def _inputs(self, latent: Tensor, vectors: Tensor) -> Tensor:
        return latent[:, None] - (vectors.cumsum(1) - vectors)

    def _joined(self, vectors: Tensor) -> Tensor:
        return vectors.sum(1)


class GroupedVectorQuantizer(VectorQuantizer):
    """Codebook k quantizes its own part of the latent, numbers k D / K to (k + 1) D / K - 1 (product quantization).

    Claim C7 is tested on it too: no stream is computed from another, as residual ones are, so that only the music makes
    them dependent.
    """

    def __init__(self, codebooks: int, codebook_size: int, dimension: int) -> None:
        """Raises ValueError where K does not divide D."""
        super().__init__(codebooks, codebook_size, part_size(dimension, codebooks))

    def _next(self, left: Tensor) -> Tensor:
        return left[:, : self.codebooks.shape[2]]

    def _left(self, left: Tensor, vectors: Tensor) -> Tensor:
        return left[:, vectors.shape[1] :]

    def _inputs(self, latent: Tensor, vectors: Tensor) -> Tensor:
        return latent.unflatten(1, vectors.shape[1:3])

    def _joined(self, vectors: Tensor) -> Tensor:
        return side_by_side(vectors, self.count)


QUANTIZERS: dict[str, type[Quantizer]] = {
    "residual": ResidualVectorQuantizer,
    "grouped": GroupedVectorQuantizer,
}


def streams(quantized: Quantized, which: Stream) -> Tensor:
    """The streams whose independence the loss asks for, `[B, K, D', T]` or, of the last two, as they say.

    - `quantized` (algorithm 1): q_k.
    - `input`: what codebook k quantizes, z - sum_{j<k} q_j, or its part of z.
    - `residual`: the input minus q_k.
    - `embedding`, `[B, K D', 1, T]`: each number of the q_k is a stream of its own, so that a codebook's numbers are
      asked to be independent of each other too.
    - `time`, `[B, T, K D', 1]`: each frame is a stream, and a row a whole segment: N is the number of segments, and
      frames are asked to be independent of each other.

    Each has the identity as its gradient to what the codebook quantizes of the latent, so the loss trains the encoder,
    with its projections where the quantizer has such, and never the codebooks nor what is made of their codes.

    With the estimator `permutation`, `quantized`, `embedding` and `time` are what `MMDCodebookLoss`, `MMDEmbeddingLoss`
    and `MMDTimeLoss` of NVIDIA NeMo (`audio_codec_loss.py`) compare, where the quantizer is grouped, as NeMo's is.
    Theirs standardises by the variance of N - 1 degrees of freedom: a bandwidth a here is a (N - 1) / N there.

    Raises:
        ValueError: there are no streams of that name.
    """
    if which == "input":
        return quantized.inputs
    if which == "residual":
        return quantized.inputs - quantized.vectors
    through = quantized.vectors + (quantized.inputs - quantized.inputs.detach())
    if which == "quantized":
        return through
    if which == "embedding":
        return through.flatten(1, 2)[:, :, None]
    if which == "time":
        return through.flatten(1, 2).transpose(1, 2)[..., None]
    raise ValueError(f"stream is {which!r}; it must be one of {', '.join(get_args(Stream))}")


def part_size(dimension: int, parts: int) -> int:
    """Numbers in each of K = `parts` parts of a latent of D = `dimension`; ValueError where K does not divide D."""
    if dimension % parts:
        raise ValueError(f"a latent of {dimension} dimensions has no {parts} parts of equal size")
    return dimension // parts


def side_by_side(vectors: Tensor, count: int) -> Tensor:
    """Parts `[B, k, D', T]` as one latent `[B, K D', T]`, 0 for those past the k of K = `count` that are given."""
    return F.pad(vectors.flatten(1, 2), (0, 0, 0, (count - vectors.shape[1]) * vectors.shape[2]))


def first(vectors: Tensor, kept: Tensor) -> Tensor:
    """`[B, K, D', T]` with 0 for the codebooks after the first `kept` `[B]` of each segment."""
    return vectors * (torch.arange(vectors.shape[1], device=vectors.device) < kept[:, None])[:, :, None, None]


def _nearest(frames: Tensor, codebook: Tensor) -> Tensor:
    # ||x||^2 is the same for every code, and left out.
    return torch.addmm(codebook.square().sum(-1)[None], frames, codebook.T, alpha=-2).argmin(-1)


def _kmeans(frames: Tensor, centres: int, iterations: int, generator: torch.Generator) -> Tensor:
    if len(frames) < centres:
        raise ValueError(
            f"k-means of {centres} codes needs as many frames and has {len(frames)}: "
            "raise batch_size or segment_seconds of its training, or lower codec.codebook_size"
        )
    means = frames[torch.randperm(len(frames), generator=generator)[:centres].to(frames.device)]
    for _ in range(iterations):
        nearest = _nearest(frames, means)
        hits = torch.zeros(centres, device=frames.device).index_add_(0, nearest, torch.ones_like(frames[:, 0]))
        sums = torch.zeros_like(means).index_add_(0, nearest, frames)
        means = torch.where(hits[:, None] > 0, sums / hits.clamp_min(1)[:, None], means)
    return means
