"""Made-up results in the study's places and formats, to try the report without running a study."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline import files, params, statistics
from pipeline import study as place
from pipeline.dependence import calibration, pairwise
from pipeline.dependence.information import ESTIMATORS
from pipeline.generation import speed
from pipeline.lm.patterns import pattern
from pipeline.study import FLOOR, JOINT, REFERENCE, SHUFFLES, Model, Run, Study

CLIPS, TRACKS, FRAMES, CODEBOOKS, SIZE = 60, 12, 100, 4, 32
TRACK = np.array([f"track{i % TRACKS:02d}" for i in range(CLIPS)])
TRACK_NUMBER = np.arange(CLIPS) % TRACKS
BOOTSTRAP = 40
FRAME_RATE = 25.0  # Hz


def parameters(seeds: tuple[int, ...] = (0, 1)) -> dict[str, Any]:
    """The default study's parameters, with few resamples."""
    whole = params.load(Path(__file__).parent.parent / "params.yaml").model_dump(mode="json")
    for codec in whole["study"]["codecs"].values():
        codec["seeds"] = list(seeds)
    modelled = {
        "delay": ("baseline", "mmd", "mmd-delay"),
        "parallel": ("baseline", "mmd"),
        JOINT: ("baseline", "mmd", "mmd-delay"),
    }
    for name, codecs in modelled.items():
        each = [seeds[0]] if name == JOINT else list(seeds)
        whole["study"]["language_models"][name] = {"codecs": dict.fromkeys(codecs, each), "seeds": [0]}
    whole["dependence"]["bootstrap"] = whole["evaluation"]["bootstrap"] = BOOTSTRAP
    return whole


def write(root: Path, whole: dict[str, Any], effect: float = 1.0) -> None:
    """Writes results of a study in folder `root`; `effect` is how much the loss helps, from -1 (harms) over 0 to 1."""
    percents = params.LanguageModel.model_validate(whole["lm"]).snapshot_percents
    study = Study(params.Study.model_validate(whole["study"]), {}, percents)
    measuring = params.Dependence.model_validate(whole["dependence"])
    for run in study.runs:
        loss = _loss(study, run)
        helped = effect * _strength(loss)
        _codec(root, run, helped, trained=run.codec in study.trained)
        if run.codec in study.trained:
            _history(root / place.TRUNK.format(**study.trunk(*run)) / "history.csv", range(100, 1001, 100), 0.0)
            _history(root / place.CODEC.format(**run._asdict()) / "history.csv", range(1100, 2001, 100), helped)
            _snapshots(root, run, helped)
        _dependence(root, run, measuring, helped, helped * (1 + loss.delay))
        _score(root, run.system, 2.0, 0.2, list(study.codecs).index(run.codec))
    for run in study.plain:
        for kept in study.settings.kept:
            _score(root, run.kept(kept), 6.0 - kept, 0.6 - 0.1 * kept, kept, own=4.0 - kept)
    for run in study.shuffled:
        costs = dict(zip(SHUFFLES, (0.0, 0.5, 1.0), strict=True))
        for kind, cost in costs.items():
            _score(root, run.shuffled(kind), 3.0 + cost, 0.5, 0, own=1.0 + cost)
        levels = {kind: 1 + cost + _noise(0.05, run.seed) for kind, cost in costs.items()}
        _clips(root / place.SHUFFLED_LEVELS.format(**run._asdict()), **levels)
    _score(root, FLOOR, 1.5, 2.5, 0)
    _score(root, REFERENCE, 0.0, 0.0, 0)
    _calibration(root)
    if study.models:
        _patterns(root)
    if study.factorised:
        _price_calibration(root)
    for model in study.models:
        loss = _loss(study, model.run)
        _model(root, model, effect * _strength(loss) * (1 + loss.delay))
        _information(root, model, measuring)
        if model in study.factorised:
            _price(root, model, effect * _strength(loss))
    for model in study.growing:
        for percent in study.percents:
            fad = 20 - 0.1 * percent
            _score(root, model.snapshot(percent), fad, 3 - 0.01 * percent, percent, own=fad - 2)


def _loss(study: Study, run: Run) -> params.Independence:
    """None, of a codec that comes trained."""
    none = params.Independence(weight=0, delay=False, stream="quantized", estimator="closed_form")
    return study.trained[run.codec].loss if run.codec in study.trained else none


def _strength(loss: params.Independence) -> float:
    """How much a loss does, which grows with its weight up to 1 at the paper's."""
    return min(np.log1p(loss.weight) / np.log1p(1000), 1.0)


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
    files.write_json(root / place.PATTERNS, {"patterns": sorted(rows, key=lambda row: row["batch_size"])})


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


def _mmd(run: Run, helped: float) -> dict[str, float]:
    return {"equal_time": 0.01 * (1.2 - helped) + 1e-4 * run.seed, "delayed": 0.008 * (1.2 - helped) + 1e-4 * run.seed}


def _codec(root: Path, run: Run, helped: float, *, trained: bool) -> None:
    folder = root / place.CODEC.format(**run._asdict())
    shared, own = _noise(2, run.seed), len(folder.name)
    si_sdr = 6 + shared - 0.1 * helped + _noise(0.1, own)
    log_mel = 2 + 0.1 * shared + 0.005 * helped + _noise(0.005, own)
    mos = np.where(np.arange(CLIPS) % 2, np.nan, 3 + 0.1 * shared)  # of some clips
    _clips(folder / "metrics.npz", si_sdr=si_sdr, log_mel=log_mel, mos=mos)
    summary = {"si_sdr": {"value": si_sdr.mean()}, "log_mel": {"value": log_mel.mean()}}
    summary |= {"mmd": _mmd(run, helped)} if trained else {}
    files.write_json(folder / "metrics.json", {**summary, "perplexity": [20.0, 22.0, 25.0, 24.0]})


def _snapshots(root: Path, run: Run, helped: float) -> None:
    # Half-way to the whole effect after half the steps.
    rows = [
        {
            "step": step,
            "alignment": alignment,
            "estimator": estimator,
            "mmd": value * (2 - share),
            "mutual_information": 2 - share * helped,
            "entropy": 19,
        }
        for step, share in ((1500, 0.5), (2000, 1.0))
        for alignment, value in _mmd(run, helped).items()
        for estimator in ESTIMATORS
    ]
    path = root / place.SNAPSHOTS.format(**run._asdict())
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(path, index=False)


def _dependence(root: Path, run: Run, settings: params.Dependence, helped: float, helped_delayed: float) -> None:
    generator = np.random.default_rng(run.seed)
    fresh = generator.integers(SIZE, size=(CLIPS, CODEBOOKS, FRAMES))
    copied = generator.random((CLIPS, CODEBOOKS, FRAMES))
    # Codes that are alike at equal time alone leave nothing to see under the delay shift: others stand in for them.
    alike = {"equal_time": helped, "delayed": helped_delayed}
    codes = {alignment: np.where(copied < 0.4 - 0.1 * help_, fresh[:, :1], fresh) for alignment, help_ in alike.items()}
    alignments = {
        alignment: pairwise.measure(each, TRACK_NUMBER, SIZE, settings, 0.95) for alignment, each in codes.items()
    }
    alignments["delayed"]["frames"] = CLIPS * (FRAMES - CODEBOOKS + 1)
    totals = {
        alignment: {name: each["total"]["mutual_information"] for name, each in measured["estimators"].items()}
        for alignment, measured in alignments.items()
    }
    far = pairwise.far_lags(settings.far_lags, FRAME_RATE)
    lags = pairwise.all_lags(settings, FRAME_RATE, CODEBOOKS)
    by_lag = {
        "lags": lags,
        "far": far,
        "frame_rate": FRAME_RATE,
        "frames": CLIPS * (FRAMES - 2 * max(lags)),
        # Less a little, for an estimate of nothing can come out negative.
        "estimators": {
            name: [{key: total[key] * 0.8 ** abs(lag) - 1 for key in ("value", "low", "high")} for lag in lags]
            for name, total in totals["equal_time"].items()
        },
        # Of what is shared at equal time, half says which piece is playing.
        "parts": {
            name: {"far": _times(total, 0.5), "equal_time": total, "delayed": totals["delayed"][name]}
            for name, total in totals["equal_time"].items()
        },
    }
    result = {
        "codec": run.codec,
        "codebook_size": SIZE,
        "alignments": alignments,
        "by_lag": by_lag,
        "controls": pairwise.controls(codes["equal_time"].transpose(1, 0, 2).reshape(CODEBOOKS, -1), SIZE, settings),
    }
    files.write_json(root / place.DEPENDENCE.format(**run._asdict()), result)
    _learned(root, run, {alignment: 1.0 - 0.1 * help_ for alignment, help_ in alike.items()})


def _times(stored: dict[str, Any], share: float) -> dict[str, Any]:
    values = {key: share * stored[key] for key in ("value", "low", "high")}
    return {**values, "resamples": [share * value for value in stored["resamples"]]}


def _information(root: Path, model: Model, settings: params.Dependence) -> None:
    """Generated codes of which fewer repeat the first codebook's than of the real ones."""
    generator = np.random.default_rng(model.seed)
    fresh = generator.integers(SIZE, size=(CLIPS, CODEBOOKS, FRAMES))
    copied = generator.random((CLIPS, CODEBOOKS, FRAMES))
    result = {}
    for whose, share in (("generated", 0.2), ("real", 0.4)):
        measured = pairwise.measure(np.where(copied < share, fresh[:, :1], fresh), TRACK_NUMBER, SIZE, settings, 0.95)
        result[whose] = dict.fromkeys(("equal_time", "delayed"), measured)
    files.write_json(root / place.INFORMATION.format(**model._asdict()), result)


def _learned(root: Path, run: Run, bits: dict[str, float]) -> None:
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
    files.write_json(root / place.LEARNED.format(**run._asdict()), {"alignments": alignments, "controls": known})


def _calibration(root: Path) -> None:
    """Estimators overestimate independent codes and underestimate a noisy copy."""
    frames = {"train": 10 * CLIPS * FRAMES, "validation": CLIPS * FRAMES, "test": CLIPS * FRAMES}
    own = _condition((*ESTIMATORS, calibration.LEARNED), frames, SIZE)
    few = _condition(ESTIMATORS, {"test": calibration.FEW_FRAMES}, calibration.PAPER_CODES)
    files.write_json(root / place.CALIBRATION, {"draws": 2, **own, "few_frames": few, "chosen": "shuffled_baseline"})


def _price(root: Path, model: Model, helped: float) -> None:
    drawn = statistics.multiplicities(TRACKS, BOOTSTRAP, 0)
    value = 1.2 - 0.3 * helped
    spread = 0.05 * (drawn @ np.linspace(-1, 1, TRACKS)) / TRACKS
    price = statistics.interval(value, value + spread, 0.95)
    found = {
        "price": price.json(resamples=True),
        "by_codebook": [{"value": value / 3} for _ in range(CODEBOOKS - 1)],
        "bits_factorised": {"value": 20.0},
        "bits_with_head": {"value": 20.0 - value},
        "controls": {
            "other_clip": {"value": -0.02, "truth": 0.0},
            "other_frame": {"value": 0.05, "truth": 0.0},
            "copied": {"value": 4.5, "truth": 5.0},
        },
        "steps": CLIPS * FRAMES,
        "tracks": TRACKS,
    }
    files.write_json(root / place.CONDITIONAL.format(**model._asdict()), found)


def _price_calibration(root: Path) -> None:
    """Prices are 0.1 bits and a fifth of the truth too low."""
    processes = [
        {
            "shared": shared,
            "truth": truth,
            "measured": {"value": found, "low": found - 0.02, "high": found + 0.02},
            "bias": found - truth,
        }
        for shared, truth, found in ((0.0, 0.0, -0.1), (0.1, 1.0, 0.7), (0.2, 2.0, 1.5))
    ]
    files.write_json(root / place.CONDITIONAL_CALIBRATION, {"processes": processes})


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


def _distances(value: float, seed: int) -> dict[str, Any]:
    drawn = statistics.multiplicities(TRACKS, BOOTSTRAP, 0)
    resamples = (
        value
        + 0.3 * (drawn @ np.linspace(-1, 1, TRACKS)) / TRACKS
        + np.random.default_rng(seed).normal(0, 0.02, BOOTSTRAP)
    )
    ends = statistics.interval(value, resamples, 0.95).json(resamples=True)
    frechet = {**ends, "infinity": value - 0.5, "r2": 0.98, "patches": 3 * CLIPS, "clips": CLIPS}
    return {
        "fad": {"musicnn-mtt": frechet, "cdpam": frechet},
        "kad": {"musicnn-mtt": ends, "cdpam": ends},
    }


def _score(root: Path, system: str, fad: float, kl: float, seed: int, own: float | None = None) -> None:
    """`own` is the distance to the codec's own reconstruction, where a codec decoded the system."""
    distances = _distances(fad, seed)
    values = kl + 0.05 * np.linspace(-1, 1, CLIPS) + _noise(0.01, seed)
    score = {
        "system": system,
        **distances,
        **({} if own is None else {"to_reconstruction": _distances(own, seed)}),
        "fma_pop": {"cdpam": distances["fad"]["cdpam"]},
        "embedders": {"musicnn-mtt": {"label": "MTT", "divergence": "kl"}, "cdpam": {"label": "CDPAM"}},
        "kl": {
            "value": values.mean(),
            "low": values.mean() - 0.02,
            "high": values.mean() + 0.02,
            "paired": system != FLOOR,
        },
        "text": {"value": 0.6, "low": 0.58, "high": 0.62, "clips": CLIPS - 1},
        "clips": CLIPS,
        "tracks": TRACKS,
        "silent": 0,
        "not_finite": 0,
        "short": 0,
        "clipped": 1,
    }
    path = root / place.SCORES.format(system=system)
    files.write_json(Path(f"{path}.json"), score)
    agreement = 0.7 - 0.1 * values + _noise(0.05, seed + 1)
    agreement[0] = np.nan  # a caption that names no tag
    _clips(Path(f"{path}.npz"), kl=values, text=agreement)


def _model(root: Path, model: Model, helped: float) -> None:
    joint = model.pattern == JOINT
    own_luck = 0.05 * np.random.default_rng([model.seed, len(model.name)]).normal()
    fad = 8 - 2 * joint - (1 - joint) * helped + own_luck
    _score(root, model.system, fad, 1 - 0.1 * helped + 0.1 * own_luck, model.seed + 10 * joint, own=fad - 2)
    bits = 20 - 2 * joint - 0.5 * (1 - joint) * helped + _noise(0.05, model.seed)
    folder, steps_of_training = root / place.LM.format(**model._asdict()), np.array([10, 100, 1000])
    _clips(folder / "held_out.npz", bits_per_frame=bits, static_bits=np.full(CLIPS, 25.0))
    learnt = 25 - (25 - bits.mean()) * np.log10(steps_of_training) / 3
    columns = {"step": steps_of_training, "validation_bits_per_frame": learnt, "validation_static_bits": 25.0}
    pd.DataFrame(columns).to_csv(folder / "history.csv", index=False)
    steps = CODEBOOKS * FRAMES if joint else FRAMES + CODEBOOKS - 1
    seconds = 0.05 * steps * (1 + joint)
    timing: dict[str, Any] = {
        "steps": steps,
        "seconds": seconds,
        "processor_seconds": seconds,
        "clips": CLIPS,
        "batch_size": 16,
    }
    timing |= {key: [seconds / CLIPS * slower for slower in (0.99, 1, 1.02)] for key in ("a_clip", "processor_a_clip")}
    timing |= {"frames_per_second": CLIPS * FRAMES / seconds, "real_time_factor": CLIPS * 10 / seconds}
    files.write_json(root / place.GENERATION.format(**model._asdict()) / "timing.json", timing)
