"""Bounds of known truths, beyond pairs too; the same bits twice; what the command writes, and every error once."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from pipeline import params
from pipeline.dependence import learned as difference_of_entropies
from pipeline.dependence import pairwise as dependence
from pipeline.dependence.calibration import noisy_copy_information
from pipeline.dependence.learned import Splits
from pipeline.files import write_json

LEARNED = params.Learned(hidden=32, steps=300, batch_size=256, learning_rate=1e-2)
FRAMES = {"train": 40_000, "validation": 8_000, "test": 20_000}


def _splits(draw: Callable[[int, np.random.Generator], np.ndarray]) -> Splits:
    generator = np.random.default_rng(0)
    return Splits(*(torch.from_numpy(draw(frames, generator).astype(np.int64)) for frames in FRAMES.values()))


def _copy(kept: float, size: int) -> Callable[[int, np.random.Generator], np.ndarray]:
    def draw(frames: int, generator: np.random.Generator) -> np.ndarray:
        first, fresh = generator.integers(size, size=(2, frames))
        return np.stack([first, np.where(generator.random(frames) < kept, first, fresh)])

    return draw


def _parity(frames: int, generator: np.random.Generator) -> np.ndarray:
    """Three bits of which the third is the sum of the other two: no pair shares anything, all three share 1 bit."""
    first, second = generator.integers(2, size=(2, frames))
    return np.stack([first, second, (first + second) % 2])


@pytest.mark.parametrize("kept", [0.0, 0.5, 1.0])
def test_the_bound_is_near_the_truth_and_below_it(kept: float) -> None:
    found = difference_of_entropies.lower_bound(_splits(_copy(kept, 16)), 16, LEARNED, 0)
    truth = noisy_copy_information(np.full(16, 1 / 16), kept)
    assert truth - 0.08 < found < truth + 0.02  # two standard deviations of the mean over so many frames above


def test_total_correlation_sees_what_no_pair_shows() -> None:
    splits = _splits(_parity)
    default = params.load(Path(__file__).parents[2] / "params.yaml").dependence
    settings = default.model_copy(update={"shuffles": 1, "bootstrap": 20, "seed": 0, "learned": LEARNED})
    track = np.arange(FRAMES["test"]) % 10
    found = difference_of_entropies.measure(splits, track, 2, settings, 0.9, lambda: None)
    assert found["total_correlation"]["value"] == pytest.approx(1, abs=0.02)
    assert len(found["total_correlation"]["resamples"]) == 20
    assert [bound["value"] for bound in found["given_previous"]] == pytest.approx([0, 1], abs=0.02)
    assert [bound["value"] for bound in found["given_others"]] == pytest.approx([1, 1, 1], abs=0.02)
    pairwise = dependence.pairwise(splits.test.numpy(), [splits.test.numpy()], 2)["chao_wang_jost"]
    np.testing.assert_allclose(pairwise.mutual_information, 0, atol=0.01)


def test_the_seed_decides_every_bit() -> None:
    splits, short = _splits(_copy(0.5, 8)), LEARNED.model_copy(update={"steps": 20})
    once, again, other = (difference_of_entropies.surprise(splits, 8, short, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(once, again)
    assert (once != other).any()


def test_other_marginals_than_the_training_splits_cost_nothing() -> None:
    """Independent codebooks whose second is used otherwise on held-out frames: a bound of 0, not less."""
    generator = np.random.default_rng(0)
    uneven = np.array([0.7, 0.1, 0.1, 0.1])
    splits = Splits(
        *(
            torch.from_numpy(np.stack([generator.choice(4, frames, p=p), generator.integers(4, size=frames)]))
            for frames, p in zip(FRAMES.values(), (uneven, uneven, uneven[::-1]), strict=True)
        )
    )
    found = difference_of_entropies.lower_bound(splits, 4, LEARNED.model_copy(update={"steps": 40}), 0)
    assert found == pytest.approx(0, abs=0.01)


def _write(folder: Path, size: int = 8) -> list[str]:
    """Tokens of three splits, a manifest and the command's arguments."""
    generator = np.random.default_rng(0)
    clips = {"train": 8, "validation": 4, "test": 6}
    (folder / "mmd-seed0").mkdir()
    for split, count in clips.items():
        codes = generator.integers(8, size=(count, 3, 40)).astype(np.uint16)
        np.save(folder / "mmd-seed0" / f"{split}.npy", codes)
    rows = [(f"{split}{i // 2}", split) for split, count in clips.items() for i in range(count)]
    pd.DataFrame(rows, columns=["track_id", "split"]).to_parquet(folder / "m.parquet")
    whole = params.load(Path("params.yaml")).model_dump(mode="json")
    write_json(folder / "codec" / "model.json", {"configuration": {"codebooks": 3, "codebook_size": size}})
    whole["dependence"] |= {"bootstrap": 5, "learned": {**LEARNED.model_dump(), "steps": 4, "batch_size": 16}}
    files = [
        "--codec",
        str(folder / "codec"),
        "--tokens",
        str(folder / "mmd-seed0"),
        "--manifest",
        str(folder / "m.parquet"),
    ]
    return ["--params", json.dumps(whole), *files, "--out", str(folder / "out.json")]


def test_main_writes_what_the_report_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["difference_of_entropies", *_write(tmp_path)])
    monkeypatch.chdir(tmp_path)
    difference_of_entropies.main()
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["alignments"]["delayed"]["frames"] == 6 * 38
    assert found["alignments"]["equal_time"]["train_frames"] == 8 * 40
    assert found["alignments"]["equal_time"]["tracks"] == 3
    assert len(found["alignments"]["delayed"]["given_previous"]) == 2
    assert set(found["controls"]) == {"positive", "negative", "rolled"}


def test_tokens_of_another_codec_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["learned", *_write(tmp_path, size=4)])
    with pytest.raises(ValueError, match=r"train\.npy holds codes 0 to 7, outside 0 to 3"):
        difference_of_entropies.main()
