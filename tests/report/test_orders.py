"""Verdicts on known orders, and what they make of a study's scores."""

import json
from pathlib import Path

import numpy as np
import pytest
import synthetic
from hypothesis import given
from hypothesis import strategies as st

from pipeline import files
from pipeline.report import tables
from pipeline.report.orders import HELD, UNCLEAR, VIOLATED, valid, verdict
from pipeline.report.results import Results
from pipeline.statistics import Estimate
from pipeline.study import SCORES

STEPS = st.lists(st.tuples(st.floats(-5, 5), st.floats(0.01, 5)), min_size=1, max_size=5)


def steps_of(ends: list[tuple[float, float]]) -> list[Estimate]:
    """Steps of these values and half-widths."""
    return [Estimate(value, value - half, value + half, np.zeros(2)) for value, half in ends]


@given(STEPS)
def test_an_order_holds_where_every_step_is_seen_to_fall(ends: list[tuple[float, float]]) -> None:
    steps = steps_of(ends)
    alone = [verdict([step]) for step in steps]
    assert verdict(steps) == (VIOLATED if VIOLATED in alone else UNCLEAR if UNCLEAR in alone else HELD)
    assert (verdict(steps) == HELD) == all(value + half < 0 for value, half in ends)


@given(STEPS)
def test_a_wrong_step_more_never_mends_an_order(ends: list[tuple[float, float]]) -> None:
    assert verdict(steps_of([*ends, (1.0, 0.5)])) == VIOLATED
    assert verdict(steps_of([*ends, (0.0, 0.5)])) != HELD


@given(STEPS)
def test_an_order_and_its_reverse_contradict_each_other(ends: list[tuple[float, float]]) -> None:
    there, back = verdict(steps_of(ends)), verdict(steps_of([(-value, half) for value, half in reversed(ends)]))
    assert VIOLATED in (there, back) if HELD in (there, back) else True
    assert (there, back) != (HELD, HELD)


def test_a_score_decides_if_it_holds_an_order_and_violates_none() -> None:
    assert verdict([]) == UNCLEAR
    assert valid([HELD, UNCLEAR])
    assert not valid([HELD, VIOLATED])
    assert not valid([UNCLEAR, UNCLEAR])
    assert not valid([])


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    root, whole = tmp_path_factory.mktemp("study"), synthetic.parameters(seeds=(0,))
    synthetic.write(root, whole)
    return Results(root, json.dumps(whole))


def test_each_score_is_tried_on_the_orders_that_it_is_defined_for(results: Results) -> None:
    tried = {score: [o.name for o in results.orders if o.score == score] for score in results.lower_is_better}
    whole = ["codebooks kept", "reconstruction, real music", "language model's training"]
    assert tried["FAD-MTT"] == tried["KAD-MTT"] == whole
    # Real music of other tracks has no clips to be paired with, and a reconstruction no distance to itself.
    assert tried["KL-MTT (nats)"] == tried["FAD-MTT to own reconstruction"] == [whole[0], whole[2]]
    (own,) = [o for o in results.orders if (o.score, o.name) == ("FAD-MTT to own reconstruction", "codebooks kept")]
    assert own.systems == [f"kept/{n}/baseline-seed0" for n in (1, 2, 3)]
    assert [value.value for value in own.values] == [3, 2, 1]
    assert [step.value for step in own.steps] == [-1, -1]
    assert all(order.verdict == HELD for order in results.orders)
    assert all(results.valid(score) for score in results.lower_is_better)


def test_a_score_that_prefers_fewer_codebooks_decides_nothing(tmp_path: Path) -> None:
    whole = synthetic.parameters(seeds=(0,))
    synthetic.write(tmp_path, whole)
    first, second = (tmp_path / f"{SCORES.format(system=f'kept/{n}/baseline-seed0')}.json" for n in (1, 2))
    better, worse = files.read_json(second), files.read_json(first)
    files.write_json(first, worse | {"fad": better["fad"]})
    files.write_json(second, better | {"fad": worse["fad"]})
    results = Results(tmp_path, json.dumps(whole))
    assert not results.valid("FAD-MTT")
    assert results.valid("KAD-MTT")
    rows = [row for row in tables.orders(results) if (row["score"], row["order"]) == ("FAD-MTT", "codebooks kept")]
    assert [row["system"].split("/")[0] for row in rows] == ["kept", "kept", "kept", "reconstruction"]
    assert [row["step"] for row in rows] == ["", VIOLATED, HELD, HELD]
    assert {row["whole order"] for row in rows} == {VIOLATED}
    assert {row["may decide"] for row in rows} == {"no"}


def test_the_cost_of_shuffling_is_paired_and_stands_beside_what_codebooks_share(results: Results) -> None:
    rows = tables.shuffles(results)
    assert [(row["codec"], row["kept together"]) for row in rows[:2]] == [
        ("baseline", "equal time"),
        ("baseline", "delay shift"),
    ]
    for row, cost in zip(rows[:2], (1.0, 0.5), strict=True):
        for name in ("FAD-MTT", "KAD-MTT", "levels (dB)"):
            assert row[f"{name}, cost"].value == pytest.approx(cost)
            assert row[f"{name}, cost"].high - row[f"{name}, cost"].low < 0.01  # both rest on the same draws
        assert row["MI, sum of pairs (bits)"].value > 0


def test_generated_codes_that_share_less_are_seen_to(results: Results) -> None:
    rows = tables.generated_information(results)
    assert len(rows) == 2 * len(results.study.models)
    for row in rows:
        assert row["MI, sum of pairs (bits), generated - real"].high < 0
        assert row["frames"] == synthetic.CLIPS * synthetic.FRAMES


def test_a_system_that_no_codec_decoded_has_no_distance_to_a_reconstruction(results: Results) -> None:
    with pytest.raises(ValueError, match="floor is not compared with a codec's reconstructions"):
        results.to_reconstruction("floor", "fad")
