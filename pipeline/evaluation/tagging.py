"""What a tagger says of clips: how far from the reference's tags, and whether a clip fits its own caption best."""

import re
from collections.abc import Sequence

import numpy as np
from scipy.special import log_softmax

EQUAL = 1e-9  # up to rounding
NEGATED = re.compile(r"\b(?:without|no)\b[^,.;]*")


def kl(reference: np.ndarray, system: np.ndarray) -> np.ndarray:
    """KL(reference || system) in nats of each clip's tags: logits `[n, m, C]`, both -> `[n]`.

    A clip's posterior is the mean over its patches of the softmax over tags, as in MusicGen's KL, which uses PaSST.
    musicnn's tags do not exclude each other: there, the softmax says how it ranks them.
    """
    if reference.shape != system.shape:
        raise ValueError(f"logits of paired clips must have one shape, got {reference.shape} and {system.shape}")
    p, q = (np.logaddexp.reduce(log_softmax(side.astype(np.float64), -1), 1) for side in (reference, system))
    patches = np.log(reference.shape[1])
    return (np.exp(p - patches) * (p - q)).sum(-1)


def stated(captions: Sequence[str], tags: Sequence[str]) -> np.ndarray:
    """Whether each caption names each tag, `[n, C]`: as whole words, whatever the case, and not after "no"."""
    texts = [NEGATED.sub("", caption.casefold()) for caption in captions]
    words = [re.compile(rf"\b{re.escape(tag.casefold())}\b") for tag in tags]
    return np.array([[word.search(text) is not None for word in words] for text in texts])


def agreement(logits: np.ndarray, captions: Sequence[str], tags: Sequence[str]) -> np.ndarray:
    """Share of a system's other captions that fit a clip worse than its own does, `[n]`; NaN where it names no tag.

    How well a caption fits is the mean, over the tags that it names, of the clip's log-odds `[n, m, C]`, averaged over
    patches and standardised over the system's clips, so that neither a common tag nor a system's bias wins. Ties count
    half: audio unrelated to its captions gets 0.5, a perfect match 1. This is not a CLAP score and cannot be compared
    with one: it knows only `tags`, a few of which a caption names.
    """
    means = logits.mean(1, dtype=np.float64)
    spread = means.std(0)
    standard = (means - means.mean(0)) / np.where(spread > EQUAL, spread, np.inf)
    names = stated(captions, tags)
    counts = names.sum(1)
    told = counts > 0
    fits = standard @ (names[told] / counts[told, None]).T  # [n, captions that name tags]
    own = np.full(len(captions), np.nan)
    own[told] = fits[told].diagonal()
    worse, equal = fits < own[:, None] - EQUAL, np.abs(fits - own[:, None]) <= EQUAL
    others = told.sum() - 1
    shares = (worse.sum(1) + (equal.sum(1) - 1) / 2) / max(others, 1)
    return np.where(told & (others > 0), shares, np.nan)
