"""A claim in one file."""

from collections.abc import Callable

from pipeline.report.claims import Claim, Finding, lower
from pipeline.report.results import Results
from pipeline.study import FLOOR


def loud(results: Results) -> Claim:
    """LOUD: real music of other tracks is near the reference by its levels.

    Decided by FAD-Levels of the floor: lower than 1000.
    """
    distance = results.distances(FLOOR, "fad")["levels"]
    verdict = lower(distance, 1000)
    finding = Finding("FAD-Levels", "floor", "", distance.value, distance.low, distance.high, verdict)
    return Claim("Real music is near real music", "FAD-Levels of the floor", verdict, "the test split", [finding])


CLAIMS: dict[str, Callable[[Results], Claim]] = {"LOUD": loud}
