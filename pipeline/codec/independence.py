"""The independence-promoting loss: maximum mean discrepancy of the joint law from the product of its marginals.

Rows x_i of K vectors with D numbers sample the joint; rows y_i, in which codebook k comes from row pi_k(i) with one
independent permutation a codebook, sample the product of the marginals. With the kernel

    kappa(u, v) = sum_a exp(-||u - v||^2 / (2 a))        over variances a

the loss is the unbiased estimate, clamped at 0,

    L = 1/(N(N-1)) sum_{i!=j} kappa(x_i, x_j) + 1/(N(N-1)) sum_{i!=j} kappa(y_i, y_j) - 2/N^2 sum_{ij} kappa(x_i, y_j).

Both estimators walk the pairs of rows in tiles that fit a processor's cache, each unordered pair once, and make the
gradient on the way: memory grows with N, not N^2, and every pair counts.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Estimator = Literal["permutation", "closed_form", "audiocraft"]
Denominator = Literal["rows", "clips"]
Unit = Literal["variance", "median"]

STANDARD_EPSILON = 1e-8  # added to the variance, as the paper's code does
MEDIAN_ROWS = 1024  # evenly spaced, whose pairs give the median distance
# Rows of a tile's sides. On a CPU a tile's K matrices should stay in the second-level cache; a GPU wants it full.
TILE = {"cpu": 256, "cuda": 2048}
LONGEST_POWER = 10  # up to which a kernel is made from a wider one by multiplication: exp costs as much as ten of those


class Dependence(NamedTuple):
    """The loss and what it is the positive part of."""

    loss: Tensor  # scalar, at least 0
    estimate: Tensor  # scalar, before the clamp; its mean over draws of independent streams tends to 0 as N grows
    rows: int  # N


def mmd(
    streams: Tensor,
    *,
    delay: bool,
    estimator: Estimator,
    bandwidths: Sequence[float],
    unit: Unit = "variance",
    denominator: Denominator = "rows",
    generator: torch.Generator | None = None,
    tile: int | None = None,
) -> Dependence:
    """MMD between the joint law of K streams and the product of their marginals (algorithm 1 of the paper).

    `estimator="permutation"` is the paper's. `"closed_form"` is the d-variable Hilbert-Schmidt independence criterion
    (Pfister et al. 2018), what the permutation's V-statistic tends to when it is averaged over permutations: each
    Gaussian factorises over codebooks, so with kernel matrices K_k of every bandwidth

        mean_ij prod_k K_k[i,j] + prod_k mean_ij K_k[i,j] - 2 mean_i prod_k mean_j K_k[i,j].

    `"audiocraft"` is the paper's released code with its faults: the permutation estimate in which N counts the B clips,
    not the rows, and in which a delay drops K frames where K - 1 are incomplete. Of N independent rows and A bandwidths
    it gives

        2 A (N - B) / (B (B - 1)) + 2 E[kappa] N (N - B) / (B^2 (B - 1)),

    E[kappa] being the mean of kappa over pairs of rows, near 0 at the paper's size, where K D = 512; less a share of
    order 1 / N, for x and y have rows in common.

    Args:
        streams: `[B, K, D, T]`.
        delay: shift stream k (from 0) right by k frames: a row then holds what the delay-pattern LM predicts at once.
        estimator: `permutation`, `closed_form` or `audiocraft`.
        bandwidths: variances a of the Gaussians, in `unit`.
        unit: `variance`, the paper's, or `median`: of the squared distance between joint rows, without gradient.
        denominator: what N counts in L's three factors: `rows`, or `clips`, which `audiocraft` means in any case.
        generator: draws the permutations.
        tile: rows of a tile's sides; the default suits the device. It changes nothing but the order of sums.

    Raises:
        ValueError: `streams` is not `[B, K, D, T]`, holds NaN or infinity, or leaves fewer than two rows; an option is
            unknown or does not go with another.
    """
    released = estimator == "audiocraft"
    denominator = "clips" if released else denominator
    rows = standardised(joint_rows(streams, delay=delay, dropped=streams.shape[1] if released and delay else None))
    widths = scaled(bandwidths, unit, rows)
    count = {"rows": len(rows), "clips": len(streams)}.get(denominator, 0)
    if count < 2:
        raise ValueError(
            f"denominator is {denominator!r} over {len(streams)} clips, not 'rows', or 'clips' of at least 2"
        )
    tile = tile or TILE.get(rows.device.type, TILE["cpu"])
    if estimator == "closed_form":
        if denominator != "rows":
            raise ValueError("the closed form is a mean over rows: denominator 'clips' goes with 'permutation' alone")
        estimate = _ClosedForm.apply(rows, widths, tile)
    elif estimator in ("permutation", "audiocraft"):
        estimate = _permutation(rows, widths, count, generator, tile)
    else:
        raise ValueError(f"estimator is {estimator!r}; it must be 'permutation', 'closed_form' or 'audiocraft'")
    return Dependence(estimate.clamp_min(0), estimate, len(rows))


@torch.no_grad()
def above_floor(streams: Tensor, *, delay: bool, bandwidths: Sequence[float], unit: Unit = "variance") -> float:
    """The closed form of `mmd` on `[B, K, D, T]` minus its mean over all permutations of every codebook's rows.

    The closed form is a V-statistic: on independent streams it is above 0 by about A / N for A bandwidths and N rows
    whose kernels are narrow. Permuted, a pair of different rows has the product of the codebooks' mean kernels, and the
    other two terms keep theirs, so that with m_k the mean of K_k over all pairs and m'_k over those of different rows
    the floor is, per bandwidth,

        1/N + (1 - 1/N) prod_k m'_k - prod_k m_k.

    Raises:
        ValueError: as `mmd`.
    """
    rows = standardised(joint_rows(streams, delay=delay))
    count, tile = len(rows), TILE.get(rows.device.type, TILE["cpu"])
    joint, means = _pair_means(rows.transpose(0, 1).contiguous(), scaled(bandwidths, unit, rows), tile)
    overall = means.mean(-1)  # m, [A, K]
    apart = (overall - 1 / count) / (1 - 1 / count)  # m': a row's kernel with itself is 1
    floor = 1 / count + (1 - 1 / count) * apart.prod(-1) - overall.prod(-1)
    return float((_dhsic(joint, means) - floor).sum())


def joint_rows(streams: Tensor, *, delay: bool, dropped: int | None = None) -> Tensor:
    """Folds time into the batch, `[B, K, D, T]` -> `[N, K, D]`; with `delay`, N = B (T - K + 1), else B T.

    `dropped` is the number of frames that a delay leaves out of each clip, K - 1 unless told otherwise.
    """
    if streams.ndim != 4:
        raise ValueError(f"streams must be [B, K, D, T], got shape {tuple(streams.shape)}")
    if not streams.isfinite().all():
        raise ValueError("streams hold NaN or infinity: the encoder has diverged")
    codebooks, frames = streams.shape[1], streams.shape[3]
    if delay:
        dropped = codebooks - 1 if dropped is None else dropped
        kept = frames - dropped
        if kept < 1:
            raise ValueError(f"streams have {frames} frames; a delay over {codebooks} codebooks needs {dropped + 1}")
        # Step s of the delay pattern holds codebook k of frame s - k; complete from s = K - 1 on.
        streams = torch.stack([streams[:, k, :, dropped - k :][..., :kept] for k in range(codebooks)], dim=1)
    rows = streams.permute(0, 3, 1, 2).flatten(0, 1)
    if len(rows) < 2:
        raise ValueError(f"the loss compares pairs of rows, and the streams hold {len(rows)} row")
    return rows


def standardised(rows: Tensor) -> Tensor:
    """Mean 0 and variance 1 over the N rows of `[N, K, D]`, with gradient through both."""
    centred = rows - rows.mean(dim=0)
    return centred / (centred.square().mean(dim=0) + STANDARD_EPSILON).sqrt()


@torch.no_grad()
def median_distance(rows: Tensor) -> float:
    """Median of ||x_i - x_j||^2 over the pairs i < j of at most `MEDIAN_ROWS` evenly spaced rows of `[N, K, D]`.

    Raises:
        ValueError: it is 0: half of the pairs are equal.
    """
    few = rows.flatten(1)[torch.linspace(0, len(rows) - 1, min(len(rows), MEDIAN_ROWS)).round().long()]
    median = float(torch.pdist(few).square().median())
    if median == 0:
        raise ValueError("the median distance of the rows is 0 and cannot scale the bandwidths: most rows are equal")
    return median


def scaled(bandwidths: Sequence[float], unit: Unit, rows: Tensor) -> tuple[float, ...]:
    """Bandwidths as variances: in the median `unit`, multiples of the median squared distance of `rows` `[N, K, D]`."""
    if unit not in ("variance", "median"):
        raise ValueError(f"unit is {unit!r}; it must be 'variance' or 'median'")
    times = median_distance(rows) if unit == "median" else 1.0
    return tuple(a * times for a in bandwidths)


def _permutation(
    rows: Tensor, bandwidths: tuple[float, ...], count: int, generator: torch.Generator | None, tile: int
) -> Tensor:
    codebooks = rows.shape[1]
    order = [torch.randperm(len(rows), generator=generator).to(rows.device) for _ in range(codebooks)]
    product = torch.stack([rows[order[k], k] for k in range(codebooks)], dim=1).flatten(1)
    joint = rows.flatten(1)
    within = _KernelSum.apply(joint, None, bandwidths, tile) + _KernelSum.apply(product, None, bandwidths, tile)
    across = _KernelSum.apply(joint, product, bandwidths, tile)
    # kappa(u, u) is the number of bandwidths: what is left of the diagonal where `count` is not that of the rows.
    diagonal = 2 * len(bandwidths) * (len(rows) - count)
    return (within + diagonal) / (count * (count - 1)) - 2 / count**2 * across


class _KernelSum(torch.autograd.Function):
    """sum_{i!=j} kappa(u_i, u_j) of rows `[N, D]`, or with `v` `[M, D]` the sum over all pairs kappa(u_i, v_j)."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, v: Tensor | None, bandwidths: tuple[float, ...], tile: int) -> Tensor:
        other, wanted = (u if v is None else v), any(ctx.needs_input_grad)
        squares, other_squares = u.square().sum(-1), other.square().sum(-1)
        left = torch.zeros_like(u if wanted else u[:0])
        right = left if v is None else torch.zeros_like(other if wanted else other[:0])
        total = u.new_zeros((), dtype=torch.float64)
        for i, j in _tiles(len(u), len(other), tile, half=v is None):
            # Off the diagonal, one tile stands for the two that mirror each other.
            twice = 2.0 if v is None and i != j else 1.0
            distances = _distances(u[i], other[j], squares[i], other_squares[j])
            if v is None and i == j:
                distances.fill_diagonal_(torch.inf)
            slope = torch.zeros_like(distances)
            for number, kernel in _gaussians(distances, bandwidths):
                total += twice * kernel.sum()
                if wanted:
                    slope.add_(kernel, alpha=-twice / bandwidths[number])  # 2 d/d distance
            if wanted:
                _add_gradient(left[i], right[j], slope, u[i], other[j])
        if wanted:
            ctx.save_for_backward(left, *([] if v is None else [right]))
        return total.to(u.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        left, *right = ctx.saved_tensors
        return gradient * left, gradient * right[0] if right else None, None, None


class _ClosedForm(torch.autograd.Function):
    """dHSIC of rows `[N, K, D]`, summed over bandwidths; a second walk makes the gradient, which needs the row means.

    With J = prod_k K_k, mu_k[i] = mean_j K_k[i,j] and m_k = mean_i mu_k[i], the derivative to ||x_ik - x_jk||^2 is
    -1/(2 a N^2) (J[i,j] + K_k[i,j] (prod_{l!=k} m_l - prod_{l!=k} mu_l[i] - prod_{l!=k} mu_l[j])).
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, bandwidths: tuple[float, ...], tile: int) -> Tensor:
        x = rows.transpose(0, 1).contiguous()  # [K, N, D]
        count = x.shape[1]
        joint, means = _pair_means(x, bandwidths, tile)
        estimate = _dhsic(joint, means).sum()
        if not ctx.needs_input_grad[0]:
            return estimate.to(rows.dtype)

        squares = x.square().sum(-1)
        # Of the second factor, [A, K, N].
        halves = (_others(means.mean(-1))[..., None] / 2 - _others(means)).to(x.dtype)
        gradient = torch.zeros_like(x)
        for i, j in _tiles(count, count, tile, half=True):
            distances = _distances(x[:, i], x[:, j], squares[:, i], squares[:, j])
            slope, shared = torch.zeros_like(distances), torch.zeros_like(distances[0])
            for number, kernels in _gaussians(distances, bandwidths):
                scale = -(1 if i == j else 2) / (bandwidths[number] * count**2)
                shared.add_(_product(kernels), alpha=scale)
                half = scale * halves[number]
                slope.addcmul_(kernels, half[:, i, None] + half[:, None, j])
            _add_gradient(gradient[:, i], gradient[:, j], slope.add_(shared), x[:, i], x[:, j])
        ctx.save_for_backward(gradient.transpose(0, 1))
        return estimate.to(rows.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return gradient * ctx.saved_tensors[0], None, None


def _pair_means(x: Tensor, bandwidths: tuple[float, ...], tile: int) -> tuple[Tensor, Tensor]:
    """Means of codebooks' `[K, N, D]` kernels: of prod_k K_k over pairs, `[A]`, and of K_k over j, mu, `[A, K, N]`."""
    codebooks, count = x.shape[:2]
    squares = x.square().sum(-1)
    joint = x.new_zeros(len(bandwidths), dtype=torch.float64)
    means = x.new_zeros((len(bandwidths), codebooks, count), dtype=torch.float64)
    for i, j in _tiles(count, count, tile, half=True):
        distances = _distances(x[:, i], x[:, j], squares[:, i], squares[:, j])
        for number, kernels in _gaussians(distances, bandwidths):
            joint[number] += (1 if i == j else 2) * _product(kernels).sum()
            means[number, :, i] += kernels.sum(-1)
            if i != j:
                means[number, :, j] += kernels.sum(-2)
    return joint / count**2, means / count


def _dhsic(joint: Tensor, means: Tensor) -> Tensor:
    """dHSIC of every bandwidth, `[A]`, from the means of `_pair_means`."""
    return joint + means.mean(-1).prod(-1) - 2 * means.prod(1).mean(-1)


def _tiles(rows: int, columns: int, size: int, *, half: bool) -> Iterator[tuple[slice, slice]]:
    """Tiles of a matrix; with `half`, those on and above the diagonal."""
    for top in range(0, rows, size):
        for left in range(top if half else 0, columns, size):
            yield slice(top, min(top + size, rows)), slice(left, min(left + size, columns))


def _distances(u: Tensor, v: Tensor, u_squares: Tensor, v_squares: Tensor) -> Tensor:
    """||u_i - v_j||^2 of rows `[..., N, D]` and `[..., M, D]`, at least 0, from their squared norms."""
    products = u @ v.transpose(-1, -2)
    return products.mul_(-2).add_(u_squares[..., None]).add_(v_squares[..., None, :]).clamp_min_(0)


def _gaussians(distances: Tensor, bandwidths: Sequence[float]) -> Iterator[tuple[int, Tensor]]:
    """The number of each bandwidth a, from the widest to the narrowest, with exp(-distances / (2 a)).

    Where the last bandwidth is a small multiple of the next, the next kernel is a power of the last one.
    """
    last, kernel = float("nan"), distances
    for number in sorted(range(len(bandwidths)), key=lambda number: -bandwidths[number]):
        a = bandwidths[number]
        power = last / a
        if power <= LONGEST_POWER and abs(power - round(power)) < 1e-9:
            kernel = _power(kernel, round(power))
        else:
            kernel = distances.mul(-0.5 / a).exp_()
        last = a
        yield number, kernel


def _power(x: Tensor, exponent: int) -> Tensor:
    """x to a whole power of at least 1, by squaring."""
    if exponent == 1:
        return x
    root = _power(x, exponent // 2)
    return root * root * x if exponent % 2 else root * root


def _product(kernels: Tensor) -> Tensor:
    """Product over the first dimension, K; faster than `prod`, which is not vectorised over it."""
    result = kernels[0]
    for kernel in kernels[1:]:
        result = result * kernel
    return result


def _others(values: Tensor) -> Tensor:
    """Product over the other codebooks of `[A, K, ...]`: no division, for a value may be 0."""
    return torch.stack([torch.cat([values[:, :k], values[:, k + 1 :]], 1).prod(1) for k in range(values.shape[1])], 1)


def _add_gradient(left: Tensor, right: Tensor, slope: Tensor, u: Tensor, v: Tensor) -> None:
    """Adds sum_j slope_ij (u_i - v_j) to row i of `left`, and sum_i slope_ij (v_j - u_i) to row j of `right`."""
    left.addcmul_(slope.sum(-1)[..., None], u)
    left -= slope @ v
    right.addcmul_(slope.sum(-2)[..., None], v)
    right -= slope.transpose(-1, -2) @ u
