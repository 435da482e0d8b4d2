"""Known orders: systems of which each surely sounds better than the one before, on which scores are tried.

A residual codec sounds better the more of its codebooks are kept, a language model the longer it was trained, and real
music better than a codec's reconstruction of it. `Study.orders` names the systems; here is what a score made of them.
"""

from typing import NamedTuple

from pipeline.statistics import Estimate

HELD, VIOLATED, UNCLEAR = "held", "violated", "unclear"


class Order(NamedTuple):
    """What one score says of systems whose order is known, from the worst to the best."""

    score: str
    name: str
    systems: list[str]
    values: list[Estimate]
    steps: list[Estimate]  # each system's value minus that of the one before it, paired; lower is better

    @property
    def verdict(self) -> str:
        """Whether the order held."""
        return verdict(self.steps)


def verdict(steps: list[Estimate]) -> str:
    """`HELD` if the whole interval of each step lies below 0, `VIOLATED` if any lies above, else `UNCLEAR`.

    A score that sees nothing violates a step in 2.5 % of all cases, at 95 % confidence.
    """
    if any(step.low > 0 for step in steps):
        return VIOLATED
    return HELD if steps and all(step.high < 0 for step in steps) else UNCLEAR


def valid(verdicts: list[str]) -> bool:
    """Whether a score with these verdicts may decide: it found at least one order, and violates none.

    An unclear order counts neither way: its neighbours may be nearer to each other than the tracks let any score see.
    """
    return HELD in verdicts and VIOLATED not in verdicts
