"""What codebooks' vectors do not owe to the past: the streams of a loss that asks for independence given the past.

Factorising costs a language model what the codes of a step share given the past. The marginal law of the vectors also
holds what they share because of it, most of which is which piece is playing. Their innovations, the vectors minus what
a regression on the last frames of all codebooks tells of them, are nearer to what the argument asks for.
"""

import torch
from torch import Tensor

from pipeline.codec.independence import standardised

LEAST = 1e-30  # ridge of a past that does not vary at all, and so tells nothing


def innovations(streams: Tensor, *, frames: int, ridges: list[float], through: bool) -> Tensor:
    """Streams minus their ridge regression on the last n frames of all codebooks, `[B, K, D, T]` -> `[B, K, D, T - n]`.

    With v_t all K D numbers of a frame and x_t those of the frames t-1 to t-n, both less their means over the
    N = B (T - n) rows of the macro-batch, in closed form and in double precision

        e_t = v_t - A^T x_t,    A = (X^T X + a m I)^-1 X^T V,    m the mean of the diagonal of X^T X,

    a being the one of `ridges` with the least generalised cross-validation error (Golub, Heath and Wahba 1979). The
    past of a frame is its own clip's: the first n frames of a clip have none, and are left out.

    The rows are few for so many regressors: by default 736 for 512. These are residuals of the rows that A was learnt
    from all the same, for two reasons. One hat matrix serves all codebooks, so what is overfitted is a mix of a
    codebook's own innovations, and makes no two codebooks alike. And cross-validation minimises the error of a
    prediction, which is the innovation's variance plus the mean square of `e` minus the true innovation, so the chosen
    ridge is the one whose residuals come nearest to that. Made autoregressions of the default's size agreed: residuals
    of clips left out lay up to twice as far off, for they keep the error of A times a past that codebooks share.

    Under a delay the past is still the frame's: of codebooks after the first it holds frames that the delay pattern
    predicts later.

    Args:
        streams: `[B, K, D, T]`, one clip a row.
        frames: n, at least 1.
        ridges: a, each above 0, as shares of m.
        through: let the gradient through A. It is then the innovations' own, by finite differences; else A is taken as
            fixed. The study lets it through for that reason alone: made streams learnt to be independent either way,
            and on the study's codec, before the loss, the two had a cosine of 0.99.

    Raises:
        ValueError: `streams` is not `[B, K, D, T]`, or T is not over n.
    """
    if streams.ndim != 4:
        raise ValueError(f"streams must be [B, K, D, T], got shape {tuple(streams.shape)}")
    codebooks, length = streams.shape[1], streams.shape[3]
    if length <= frames:
        raise ValueError(
            f"streams have {length} frames and their past {frames}: lengthen segment_seconds of the codec's training, "
            "or lower codec.independence.innovation.frames"
        )
    rows = streams.double().permute(0, 3, 1, 2).flatten(2)  # [B, T, K D]
    past = torch.cat([rows[:, frames - lag : length - lag] for lag in range(1, frames + 1)], dim=2)
    x, v = (part.flatten(0, 1) - part.mean((0, 1)) for part in (past, rows[:, frames:]))
    gram, products = x.T @ x, x.T @ v
    weight = best_ridge(x.detach(), v.detach(), ridges) * gram.diagonal().mean() + LEAST
    coefficients = torch.linalg.solve(gram + weight * torch.eye(len(gram)).to(gram), products)
    left = v - x @ (coefficients if through else coefficients.detach())
    return left.unflatten(0, (len(streams), -1)).unflatten(2, (codebooks, -1)).permute(0, 2, 3, 1).to(streams.dtype)


@torch.no_grad()
def best_ridge(x: Tensor, v: Tensor, ridges: list[float]) -> float:
    """The one of `ridges` that predicts best, of centred rows `[N, P]` and `[N, Q]`: the least error

        N |V - X A|^2 / (N - d)^2,    d = 1 + trace of the hat matrix,

    in units of each number's variance, as the loss standardises them; the 1 is the mean. From the eigenvalues of X^T X.
    """
    v = standardised(v[:, None])[:, 0]
    values, vectors = torch.linalg.eigh(x.T @ x)
    values = values.clamp_min(0)
    powers = (vectors.T @ (x.T @ v)).square().sum(1)

    def error(ridge: float) -> float:
        shrunk = 1 / (values + ridge * values.mean() + LEAST)
        left = v.square().sum() - (powers * shrunk * (2 - values * shrunk)).sum()
        return float(left / (len(x) - 1 - (values * shrunk).sum()) ** 2)

    return min(ridges, key=error)
