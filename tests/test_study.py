"""What a configuration means: its runs, models and systems, and a place of its own for each result."""

import subprocess
import sys
from collections import Counter
from pathlib import Path
from string import Formatter
from typing import Any

import pytest
import yaml

from pipeline import params
from pipeline import study as place
from pipeline.study import FLOOR, REFERENCE, SHUFFLES, Kind, Model, Run, Study

ROOT = Path(__file__).parent.parent
PERCENTS = [20, 5]
PLAIN = {"weight": 0.0, "delay": False, "stream": "quantized", "estimator": "closed_form"}
PLACES = {
    name: value
    for name, value in vars(place).items()
    if isinstance(value, str) and name.isupper() and value.startswith(("results", "figures"))
}


def _study(
    codecs: dict[str, Any], models: dict[str, Any], systems: dict[str, str] | None = None, **more: list[int]
) -> Study:
    """Of codecs as name -> (quantizer, seeds, what their loss has beside `PLAIN`), or folder of one that is trained."""
    entries: dict[str, Any] = {
        name: {"pretrained": codec, "codebooks": 4}
        if isinstance(codec, str)
        else {"architecture": "stft", "quantizer": codec[0], "seeds": codec[1], "loss": PLAIN | codec[2]}
        for name, codec in codecs.items()
    }
    settings = params.Study.model_validate(
        {"codecs": entries, "language_models": models, "shuffled": [], "depth": [], "kept": [], **more}
    )
    outside = {
        name: params.OutsideSystem(folder=folder, captions=f"{folder}.csv" if name == "captioned" else "")
        for name, folder in (systems or {}).items()
    }
    return Study(settings, outside, PERCENTS)


@pytest.fixture(scope="module")
def default() -> Study:
    whole = params.load(ROOT / "params.yaml")
    return Study(whole.study, whole.evaluation.systems, whole.lm.snapshot_percents)


@pytest.fixture
def small() -> Study:
    codecs = {
        "plain": ("residual", [0, 3], {}),
        "ours": ("residual", [3], {"weight": 1.0}),
        "parts": ("grouped", [0], {}),
    }
    models = {
        "delay": {"codecs": {"plain": [3], "ours": [3]}, "seeds": [1]},
        "flatten": {"codecs": {"plain": [0, 3]}, "seeds": [0]},
    }
    return _study(codecs, models, {"captioned": "theirs", "bare": "/others"}, shuffled=[0], depth=[3], kept=[2, 1])


def _places(study: Study) -> list[str]:
    """Where every result of a study lies."""
    trunks = {tuple(study.trunk(*run).items()) for run in study.trained_runs}
    wildcards: dict[frozenset[str], list[dict[str, Any]]] = {
        frozenset(): [{}],
        frozenset({"architecture", "quantizer", "seed"}): [dict(trunk) for trunk in trunks],
        frozenset({"codec", "seed"}): [run._asdict() for run in study.runs],
        frozenset({"pattern", "codec", "seed", "lm"}): [model._asdict() for model in study.models],
        frozenset({"percent", "pattern", "codec", "seed", "lm"}): [
            {**model._asdict(), "percent": percent} for model in study.growing for percent in study.percents
        ],
        frozenset({"kept", "codec", "seed"}): [
            {**run._asdict(), "kept": kept} for run in study.plain for kept in study.settings.kept
        ],
        frozenset({"kind", "codec", "seed"}): [
            {**run._asdict(), "kind": kind} for run in study.shuffled for kind in SHUFFLES
        ],
        frozenset({"system"}): [{"system": system} for system in study.systems],
    }
    return [
        template.format(**values)
        for template in PLACES.values()
        for values in wildcards[frozenset(name for _, name, _, _ in Formatter().parse(template) if name)]
    ]


def test_runs_models_and_systems_are_those_that_the_configuration_names(small: Study) -> None:
    assert small.runs == [Run("plain", 0), Run("plain", 3), Run("ours", 3), Run("parts", 0)]
    assert small.models == [
        Model("delay", "plain", 3, 1),
        Model("delay", "ours", 3, 1),
        Model("delay-depth", "plain", 3, 1),
        Model("delay-depth", "ours", 3, 1),
        Model("flatten", "plain", 0, 0),
        Model("flatten", "plain", 3, 0),
    ]
    assert small.deepened == small.models[2:4]
    assert small.trained_models == [*small.models[:2], *small.models[4:]]
    assert [small.factorised_of(model) for model in small.deepened] == small.factorised
    assert small.factorised == [Model("delay", "plain", 3, 1), Model("delay", "ours", 3, 1)]
    assert small.modelled == [Run("plain", 3), Run("ours", 3), Run("plain", 0)]
    assert small.modelled_codecs == {"plain": [3, 0], "ours": [3]}
    assert small.systems == [
        "reference",
        "floor",
        "reconstruction/plain-seed0",
        "reconstruction/plain-seed3",
        "reconstruction/ours-seed3",
        "reconstruction/parts-seed0",
        "generation/delay/plain-seed3-lm1",
        "generation/delay/ours-seed3-lm1",
        "generation/delay-depth/plain-seed3-lm1",
        "generation/delay-depth/ours-seed3-lm1",
        "generation/flatten/plain-seed0-lm0",
        "generation/flatten/plain-seed3-lm0",
        "kept/2/plain-seed0",
        "kept/1/plain-seed0",
        "snapshot/5/delay/plain-seed3-lm1",
        "snapshot/20/delay/plain-seed3-lm1",
        "shuffled/equal_time/plain-seed0",
        "shuffled/delayed/plain-seed0",
        "shuffled/independent/plain-seed0",
        "outside/captioned",
        "outside/bare",
    ]


def test_systems_are_held_against_the_reconstructions_of_the_codec_that_decoded_them(small: Study) -> None:
    assert small.bound("generation/flatten/plain-seed3-lm0") == ["reconstruction/plain-seed3"]
    assert small.bound("kept/2/plain-seed0") == small.bound("shuffled/delayed/plain-seed0")
    assert small.bound("snapshot/5/delay/plain-seed3-lm1") == ["reconstruction/plain-seed3"]
    for none in (REFERENCE, FLOOR, "reconstruction/plain-seed0", "outside/bare"):
        assert small.bound(none) == []


def test_known_orders_go_from_the_worst_to_the_best(small: Study) -> None:
    assert small.orders == {
        "codebooks kept": ["kept/1/plain-seed0", "kept/2/plain-seed0", "reconstruction/plain-seed0"],
        "reconstruction, real music": ["reconstruction/plain-seed0", "floor"],
        "language model's training": [
            "snapshot/5/delay/plain-seed3-lm1",
            "snapshot/20/delay/plain-seed3-lm1",
            "generation/delay/plain-seed3-lm1",
        ],
    }
    bare = _study({"ours": ("residual", [0], {"weight": 1.0})}, {})
    assert bare.orders == {}


def test_codecs_of_a_quantizer_and_seed_share_a_trunk(small: Study) -> None:
    trunk = {"architecture": "stft", "quantizer": "residual", "seed": 3}
    assert small.trunk("plain", 3) == small.trunk("ours", 3) == trunk
    assert small.trunk("parts", 0) == {"architecture": "stft", "quantizer": "grouped", "seed": 0}


def test_audio_lies_where_its_rule_writes_it(small: Study) -> None:
    assert small.audio(REFERENCE) == small.audio(FLOOR) == f"{place.CORPUS}/audio.npy"
    for run in small.runs:
        assert small.audio(run.system) == f"{place.RECONSTRUCTION.format(**run._asdict())}/audio.npy"
    for model in small.models:
        assert small.audio(model.system) == f"{place.GENERATION.format(**model._asdict())}/audio.npy"
    for run in small.shuffled:
        for kind in SHUFFLES:
            assert small.audio(run.shuffled(kind)) == f"{place.SHUFFLED.format(kind=kind, **run._asdict())}/audio.npy"
    (run,), (model,) = small.plain, small.growing
    assert small.audio(run.kept(2)) == f"{place.KEPT.format(kept=2, **run._asdict())}/audio.npy"
    snapshot = place.GENERATION_SNAPSHOT.format(percent=5, **model._asdict())
    assert small.audio(model.snapshot(5)) == f"{snapshot}/audio.npy"
    assert (small.audio("outside/bare"), small.theirs("outside/bare")) == ("/others", ["/others"])
    assert (small.audio("outside/captioned"), small.theirs("outside/captioned")) == ("theirs", ["theirs", "theirs.csv"])
    assert small.theirs(REFERENCE) == small.theirs("reconstruction/plain-seed0") == []


def test_pairs_hold_a_codec_against_the_one_of_its_quantizer_without_the_loss(default: Study) -> None:
    assert default.independent == ["mmd-100", "mmd", "mmd-delay", "seanet-mmd", "grouped-mmd"]
    assert default.kinds == [Kind("stft", "residual"), Kind("seanet", "residual"), Kind("stft", "grouped")]
    assert default.pairs(Kind("stft", "residual")) == [
        ("mmd-100", "baseline"),
        ("mmd", "baseline"),
        ("mmd-delay", "baseline"),
    ]
    assert default.pairs(Kind("stft", "grouped")) == [("grouped-mmd", "grouped")]
    assert default.pairs(Kind("seanet", "residual")) == [("seanet-mmd", "seanet")]
    assert default.seeds("baseline", "mmd") == [0, 1, 2]
    alone = _study({"ours": ("residual", [0], {"weight": 1.0})}, {})
    assert alone.baseline(Kind("stft", "residual")) == alone.pairs(Kind("stft", "residual")) == []


def test_codecs_that_differ_in_weight_make_a_line() -> None:
    codecs = {
        "far": ("residual", [0], {"weight": 1e4}),
        "baseline": ("residual", [0], {}),
        "near": ("residual", [0], {"weight": 10.0}),
        "delayed": ("residual", [0], {"weight": 10.0, "delay": True}),
        "given": ("residual", [0], {"weight": 10.0, "stream": "innovation"}),
        "grouped": ("grouped", [0], {}),
        "grouped-mmd": ("grouped", [0], {"weight": 1e3}),
    }
    assert _study(codecs, {}).sweeps == {
        "stft, residual, quantized, closed form": ["baseline", "near", "far"],
        "stft, residual, quantized, closed form, delayed": ["baseline", "delayed"],
        "stft, residual, innovation, closed form": ["baseline", "given"],
        "stft, grouped, quantized, closed form": ["grouped", "grouped-mmd"],
    }


def test_no_two_results_of_the_default_study_share_a_place(default: Study) -> None:
    assert [path for path, times in Counter(_places(default)).items() if times > 1] == []


@pytest.mark.parametrize(
    "name",
    ["trunk", "trunk-residual", "tokens", "residual", "text", "learned", "conditional", "delay", "reconstruction"],
)
def test_a_codec_may_have_any_name(name: str) -> None:
    models = {
        "delay": {"codecs": {name: [0, 1], "baseline": [0, 1]}, "seeds": [0]},
        "flatten": {"codecs": {name: [0]}, "seeds": [0]},
    }
    codecs = {"baseline": ("residual", [0, 1], {}), name: ("residual", [0, 1], {"weight": 1.0})}
    places = _places(_study(codecs, models, {name: "theirs"}))
    assert len(set(places)) == len(places)
    # Nor does one lie in another's folder: Snakemake would empty it with the other's outputs.
    # A language model's snapshots lie in its own folder: one rule makes both.
    runs = {path for path in places if "-seed" in path and "/snapshots/" not in path}
    places = [path for path in places if not (path.startswith("results/lm/") and "/snapshots/" in path)]
    assert not [(inner, outer) for outer in runs for inner in places if inner.startswith(f"{outer}/")]


def test_no_pattern_is_named_like_a_folder_beside_the_patterns() -> None:
    beside = {Path(place.TEXT).name}
    for path in (place.RECONSTRUCTION, place.KEPT, place.SHUFFLED, place.GENERATION_SNAPSHOT, place.INFORMATION):
        beside.add(Path(path).parts[2])
    assert beside == {"text", "reconstruction", "kept", "shuffled", "snapshot", "information"}
    assert beside.isdisjoint(params.choices("PATTERNS"))
    assert not any(name.endswith(place.DEPTH) for name in params.choices("PATTERNS"))


def test_the_report_of_codecs_alone_leaves_out_what_needs_models(small: Study) -> None:
    assert small.tables == list(place.TABLE_NAMES)
    assert small.figures == list(place.FIGURE_NAMES)
    alone = _study({"plain": ("residual", [0], {})}, {})
    needing = {*place.OF_MODELS, *place.OF_FACTORISED}
    assert set(small.tables) - set(alone.tables) == needing & set(place.TABLE_NAMES)
    assert set(small.figures) - set(alone.figures) == needing & set(place.FIGURE_NAMES)
    joint = _study({"plain": ("residual", [0], {})}, {"flatten": {"codecs": {"plain": [0]}, "seeds": [0]}})
    assert set(small.tables) - set(joint.tables) == set(place.OF_FACTORISED)
    assert joint.factorised == []


def test_pretrained_codecs_are_runs_and_systems_but_nothing_that_training_has() -> None:
    codecs = {"theirs": "/theirs", "ours": ("residual", [0, 1], {"weight": 1.0}), "plain": ("residual", [0, 1], {})}
    study = _study(codecs, {"delay": {"codecs": {"theirs": [0], "plain": [0]}, "seeds": [0]}}, shuffled=[0], kept=[1])
    assert list(study.codecs) == ["plain", "ours", "theirs"]
    assert study.runs[-1] == Run("theirs", 0)
    assert study.trained_runs == study.runs[:-1]
    assert Model("delay", "theirs", 0, 0) in study.models
    assert {"reconstruction/theirs-seed0", "shuffled/delayed/theirs-seed0"} <= set(study.systems)
    assert study.kinds == [Kind("stft", "residual")]
    assert study.plain == [Run("plain", 0)]
    assert study.pairs(study.kinds[0]) == [("ours", "plain")]
    assert [names for names in study.sweeps.values()] == [["plain", "ours"]]
    assert study.figures == list(place.FIGURE_NAMES)
    places = _places(study)
    assert len(places) == len(set(places))


def test_a_study_may_train_no_codec() -> None:
    study = _study({"theirs": "/theirs", "others": "/others"}, {})
    assert study.runs == [Run("others", 0), Run("theirs", 0)]
    assert (study.trained_runs, study.kinds, study.plain, study.orders) == ([], [], [], {})
    assert set(place.OF_TRAINED).isdisjoint(study.figures)
    assert set(place.FIGURE_NAMES) - set(study.figures) >= set(place.OF_TRAINED)


def test_importing_the_study_imports_nothing_heavy() -> None:
    heavy = ("torch", "numpy", "pandas", "matplotlib")
    code = f"import sys, pipeline.study; print([name for name in {heavy} if name in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


def test_what_a_study_means_does_not_depend_on_the_order_of_its_keys() -> None:
    whole = params.load(ROOT / "params.yaml").study.model_dump(mode="json")
    reordered = yaml.safe_load(yaml.safe_dump(whole, sort_keys=True))  # as jobs are given it
    reordered["codecs"] = dict(reversed(reordered["codecs"].items()))
    ours, theirs = (Study(params.Study.model_validate(each), {}, PERCENTS) for each in (whole, reordered))
    assert list(ours.codecs) == list(theirs.codecs)
    assert ours.runs == theirs.runs
    assert ours.models == theirs.models
    assert (ours.plain, ours.growing, ours.shuffled) == (theirs.plain, theirs.growing, theirs.shuffled)
    assert ours.systems == theirs.systems
    assert ours.sweeps == theirs.sweeps


def test_codecs_stand_kind_by_kind_and_in_each_the_one_without_the_loss_first(default: Study) -> None:
    assert list(default.codecs) == [
        "baseline",
        "mmd-100",
        "mmd",
        "mmd-delay",
        "seanet",
        "seanet-mmd",
        "grouped",
        "grouped-mmd",
    ]


def test_the_model_that_is_scored_as_it_grows_is_factorised_where_one_is() -> None:
    codecs = {"plain": ("residual", [0], {})}
    entry = {"codecs": {"plain": [0]}, "seeds": [0]}
    assert _study(codecs, {"coarse-first": entry, "delay": entry}).growing == [Model("delay", "plain", 0, 0)]
    assert _study(codecs, {"flatten": entry, "coarse-first": entry}).growing == [Model("coarse-first", "plain", 0, 0)]
