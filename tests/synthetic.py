"""A made-up tree of results in the study's formats: what the report needs to be tried without a study."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline import files, params, statistics
from pipeline.dependence import calibration
from pipeline.dependence import pairwise as dependence
from pipeline.dependence.information import ESTIMATORS
from pipeline.generation import speed
from pipeline.lm.patterns import pattern
from pipeline.report.results import Model

CLIPS, TRACKS, FRAMES, CODEBOOKS, SIZE = 60, 12, 100, 4, 32
TRACK = np.array([f"track{i % TRACKS:02d}" for i in range(CLIPS)])
TRACK_NUMBER = np.arange(CLIPS) % TRACKS
BOOTSTRAP = 40


def parameters(seeds: tuple[int, ...] = (0, 1)) -> dict:
    """The default study's parameters, with few resamples."""
    whole = params.load(Path(__file__).parent.parent / "params.yaml").model_dump(mode="json")
    for codec in whole["study"]["codecs"].values():
        codec["seeds"] = list(seeds)
    whole["study"]["language_models"]["delay"]["seeds"] = list(seeds)
    whole["study"]["language_models"]["flatten"]["seeds"] = [0]
    whole["study"]["language_models"]["flatten"]["codecs"] = ["baseline", "mmd", "mmd-delay"]
    whole["dependence"]["bootstrap"] = whole["evaluation"]["bootstrap"] = BOOTSTRAP
    return whole


def write(root: Path, whole: dict, effect: float = 1.0) -> None:
    """Writes results under `root`; `effect` is how much the loss helps, from -1 (harms) over 0 to 1."""
    study = params.Study.model_validate(whole["study"])
    for index, (codec, settings) in enumerate(study.codecs.items()):
        for seed in settings.seeds:
            _trunk(root, f"{settings.quantizer}-seed{seed}")
            helped = effect * (settings.loss.weight > 0)
            _codec(root, f"{codec}-seed{seed}", helped, seed)
            measuring = params.Dependence.model_validate(whole["dependence"])
            _dependence(root, f"{codec}-seed{seed}", measuring, helped, helped * (1 + settings.loss.delay), seed)
            _score(root, f"reconstruction/{codec}-seed{seed}", 2.0, 0.2, index)
    _score(root, "floor", 1.5, 2.5, 0)
    _calibration(root)
    _score(root, "reference", 0.0, 0.0, 0)
    if any(models.codecs for models in study.language_models.values()):
        _patterns(root)
    for name, models in study.language_models.items():
        for codec in models.codecs:
            loss = study.codecs[codec].loss
            for seed in models.seeds:
                _model(root, Model(name, codec, seed), effect * (loss.weight > 0) * (1 + loss.delay))


def _patterns(root: Path) -> None:
    rows = []
    for name in speed.distinct():
        steps = pattern(name, CODEBOOKS, FRAMES).steps
        for size in (1, 16):
            seconds = [0.001 * steps * size * slower for slower in (1, 0.99, 1.02)]
            row = {
                "pattern": name,
                "batch_size": size,
                "steps": steps,
                "seconds": seconds,
                "processor_seconds": seconds,
            }
            rates = {"frames_per_second": 1000 * FRAMES / steps, "real_time_factor": 10_000 / steps}
            rows.append(row | rates)
    files.write_json(root / "generation/patterns.json", {"patterns": sorted(rows, key=lambda row: row["batch_size"])})


def _trunk(root: Path, name: str) -> None:
    _history(root / f"codec/trunk-{name}/history.csv", range(100, 1001, 100), 0.0)


def _history(path: Path, steps: range, helped: float) -> None:
    rows = [
        {
            "step": step,
            "mel": 5 / step**0.1,
            "validation_log_mel": 4 / step**0.1 + 0.05 * helped,
            "validation_si_sdr": step / 400,
            "validation_mmd_equal_time": 0.01 * (1.2 - helped),
            "validation_mmd_delayed": 0.008 * (1.2 - helped),
        }
        for step in steps
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(path, index=False)


def _clips(path: Path, **values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, track_id=TRACK, **values)


def _noise(scale: float, seed: int) -> np.ndarray:
    return scale * np.random.default_rng(seed).normal(size=CLIPS)


def _codec(root: Path, name: str, helped: float, seed: int) -> None:
    folder = root / "codec" / name
    shared = _noise(2, seed)
    si_sdr = 6 + shared - 0.1 * helped + _noise(0.1, len(name))
    log_mel = 2 + 0.1 * shared + 0.005 * helped + _noise(0.005, len(name))
    mos = np.where(np.arange(CLIPS) % 2, np.nan, 3 + 0.1 * shared)  # of some clips
    _clips(folder / "metrics.npz", si_sdr=si_sdr, log_mel=log_mel, mos=mos)
    mmd = {"equal_time": 0.01 * (1.2 - helped) + 1e-4 * seed, "delayed": 0.008 * (1.2 - helped) + 1e-4 * seed}
    summary = {"si_sdr": {"value": si_sdr.mean()}, "log_mel": {"value": log_mel.mean()}, "mmd": mmd}
    files.write_json(folder / "metrics.json", {**summary, "perplexity": [20.0, 22.0, 25.0, 24.0]})
    _history(folder / "history.csv", range(1100, 2001, 100), helped)
    # Half-way to the whole effect after half the steps.
    rows = [
        {
            "step": step,
            "alignment": name,
            "estimator": estimator,
            "mmd": value * (2 - share),
            "mutual_information": 2 - share * helped,
            "entropy": 19,
        }
        for step, share in ((1500, 0.5), (2000, 1.0))
        for name, value in mmd.items()
        for estimator in ESTIMATORS
    ]
    path = root / f"dependence/snapshots/{name}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(path, index=False)


def _dependence(
    root: Path, name: str, settings: params.Dependence, helped: float, helped_delayed: float, seed: int
) -> None:
    generator = np.random.default_rng(seed)
    fresh = generator.integers(SIZE, size=(CLIPS, CODEBOOKS, FRAMES))
    copied = generator.random((CLIPS, CODEBOOKS, FRAMES))
    # Codes that are alike at equal time alone leave nothing to see under the delay shift: others stand in for them.
    alike = {"equal_time": helped, "delayed": helped_delayed}
    codes = {alignment: np.where(copied < 0.4 - 0.1 * help_, fresh[:, :1], fresh) for alignment, help_ in alike.items()}
    found = {
        alignment: dependence.measure(each, TRACK_NUMBER, SIZE, settings, 0.95) for alignment, each in codes.items()
    }
    found["delayed"]["frames"] = CLIPS * (FRAMES - CODEBOOKS + 1)
    # Less a little, for an estimate of nothing can come out negative.
    by_lag = {
        estimator: [
            {key: values["total"]["mutual_information"][key] * 0.8 ** abs(lag) - 1 for key in ("value", "low", "high")}
            for lag in dependence.LAGS
        ]
        for estimator, values in found["equal_time"]["estimators"].items()
    }
    result = {
        "codec": name,
        "codebook_size": SIZE,
        "alignments": found,
        "by_lag": {"lags": list(dependence.LAGS), "frames": CLIPS * (FRAMES - 16), "estimators": by_lag},
        "controls": dependence.controls(codes["equal_time"].transpose(1, 0, 2).reshape(CODEBOOKS, -1), SIZE, settings),
    }
    files.write_json(root / f"dependence/{name}.json", result)
    _learned(root, name, {alignment: 1.0 - 0.1 * help_ for alignment, help_ in alike.items()}, seed)


def _learned(root: Path, name: str, bits: dict[str, float], seed: int) -> None:
    drawn = statistics.multiplicities(TRACKS, BOOTSTRAP, 0)
    spread = 0.05 * (drawn @ np.linspace(-1, 1, TRACKS)) / TRACKS
    alignments = {
        alignment: {
            "frames": CLIPS * FRAMES,
            "tracks": TRACKS,
            "train_frames": 10 * CLIPS * FRAMES,
            "total_correlation": statistics.interval(value, value + spread, 0.95).json(resamples=True),
            "given_previous": [{"value": value / 3} for _ in range(CODEBOOKS - 1)],
            "given_others": [{"value": value / 2} for _ in range(CODEBOOKS)],
        }
        for alignment, value in bits.items()
    }
    known = {"positive": {"measured": 4.9, "truth": 5.0}}
    known |= {control: {"measured": 0.0, "truth": 0.0} for control in ("negative", "rolled")}
    files.write_json(root / f"dependence/learned/{name}.json", {"alignments": alignments, "controls": known})


def _calibration(root: Path) -> None:
    """Estimators overestimate independent codes and underestimate a noisy copy."""
    frames = {"train": 10 * CLIPS * FRAMES, "validation": CLIPS * FRAMES, "test": CLIPS * FRAMES}
    own = _condition((*ESTIMATORS, calibration.LEARNED), frames, SIZE)
    few = _condition(ESTIMATORS, {"test": calibration.FEW_FRAMES}, calibration.PAPER_CODES)
    files.write_json(
        root / "dependence/calibration.json", {"draws": 2, **own, "few_frames": few, "chosen": "shuffled_baseline"}
    )


def _condition(names: Sequence[str], frames: dict[str, int], codebook_size: int) -> dict[str, Any]:
    errors = {name: 0.1 * (i + 1) for i, name in enumerate(reversed(names))}
    distributions = {
        distribution: {
            "truth": 0.5,
            "estimators": {
                name: {"bias": sign * error, "spread": 0.01, "error": error} for name, error in errors.items()
            },
        }
        for distribution, sign in (("independent", 1), ("noisy_copy", -1))
    }
    return {"frames": frames, "codebook_size": codebook_size, "distributions": distributions, "worst": errors}


def _score(root: Path, system: str, fad: float, kl: float, seed: int) -> None:
    drawn = statistics.multiplicities(TRACKS, BOOTSTRAP, 0)
    resamples = (
        fad
        + 0.3 * (drawn @ np.linspace(-1, 1, TRACKS)) / TRACKS
        + np.random.default_rng(seed).normal(0, 0.02, BOOTSTRAP)
    )
    values = kl + 0.05 * np.linspace(-1, 1, CLIPS) + _noise(0.01, seed)
    ends = statistics.interval(fad, resamples, 0.95).json(resamples=True)
    score = {
        "system": system,
        "fad": {"musicnn-mtt": {**ends, "infinity": fad - 0.5, "r2": 0.98, "patches": 3 * CLIPS, "clips": CLIPS}},
        "kad": {"musicnn-mtt": ends},
        "fma_pop": {"cdpam": {**ends, "infinity": fad - 0.5, "r2": 0.98, "patches": 3 * CLIPS, "clips": CLIPS}},
        "kl": {"value": values.mean(), "low": values.mean() - 0.02, "high": values.mean() + 0.02, "paired": True},
        "text": {"value": 0.6, "low": 0.58, "high": 0.62, "clips": CLIPS - 1},
        "clips": CLIPS,
        "tracks": TRACKS,
        "silent": 0,
        "not_finite": 0,
        "short": 0,
        "clipped": 1,
    }
    files.write_json(root / f"evaluation/scores/{system}.json", score)
    agreement = 0.7 - 0.1 * values + _noise(0.05, seed + 1)
    agreement[0] = np.nan  # a caption that names no tag
    _clips(root / f"evaluation/scores/{system}.npz", kl=values, text=agreement)


def _model(root: Path, model: Model, helped: float) -> None:
    joint = model.pattern == "flatten"
    _score(
        root,
        f"generation/{model.name}",
        8 - 2 * joint - (1 - joint) * helped,
        1 - 0.1 * helped,
        model.seed + 10 * joint,
    )
    bits = 20 - 2 * joint - 0.5 * (1 - joint) * helped + _noise(0.05, model.seed)
    _clips(root / f"lm/{model.name}/held_out.npz", bits_per_frame=bits)
    steps = CODEBOOKS * FRAMES if joint else FRAMES + CODEBOOKS - 1
    seconds = 0.05 * steps * (1 + joint)
    timing = {"steps": steps, "seconds": seconds, "processor_seconds": seconds, "clips": CLIPS, "batch_size": 16}
    timing |= {key: [seconds / CLIPS * slower for slower in (0.99, 1, 1.02)] for key in ("a_clip", "processor_a_clip")}
    timing |= {"frames_per_second": CLIPS * FRAMES / seconds, "real_time_factor": CLIPS * 10 / seconds}
    files.write_json(root / f"generation/{model.name}/timing.json", timing)
