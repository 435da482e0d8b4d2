"""The rules: what runs again when something changes, and that DVC's stages declare what the rules read."""

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from studies import Output, Study, merged

from pipeline import params
from pipeline.report import figures, tables

ROOT = Path(__file__).parent.parent
PRESETS = sorted((ROOT / "presets").glob("*.yaml"))
STAGES: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
AFTER = {
    "medium": "paper",
    "large": "paper",
    "seanet-plain": "seanet",
    "band-rotary": "band",
}  # given after another on the command line
DEFAULTS = yaml.safe_load((ROOT / "params.yaml").read_text())

PAGE = "results/index.html|results/tables/parameters.json"
REPORTED = f"results/tables/|figures/|{PAGE}"
HEARD = "results/gallery/"
TIMED = "results/generation/patterns.json"
GENERATED = (
    f"results/generation/(parallel|delay|flatten|snapshot|information)/|{TIMED}|"
    f"results/evaluation/.*/(generation|snapshot)/|{HEARD}|{REPORTED}"
)
MODELS = f"results/(lm|dependence/conditional)/(parallel|delay|flatten)/|{GENERATED}"


@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.stem)
def test_presets_fit_and_say_only_what_differs(preset: Path) -> None:
    changes = yaml.safe_load(preset.read_text())
    base = merged(DEFAULTS, _preset(AFTER[preset.stem])) if preset.stem in AFTER else DEFAULTS
    whole = merged(base, changes)
    params.leave_out(whole)
    params.checked(params.Params, whole, preset.name)
    assert [key for key, value in _values(changes) if _at(base, key) == value] == [], "what the defaults say already"


def _preset(name: str) -> dict[str, Any]:
    return yaml.safe_load((ROOT / "presets" / f"{name}.yaml").read_text())


def _values(settings: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for key, value in settings.items():
        if isinstance(value, dict):
            yield from _values(value, (*path, key))
        else:
            yield (*path, key), value


def _at(settings: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        settings = settings.get(key) if isinstance(settings, dict) else None
    return settings


def test_a_mistyped_parameter_ends_in_one_sentence(settled: Study) -> None:
    faults = ["--config", "lm={stepz: 3}", "codec={stft: {training: {steps: fast}}}", "lmm={}"]
    said = settled.run("snakemake", "--dry-run", *faults, fails=True)
    assert re.search(r"^parameters: codec.stft.training.steps: .+; lm.stepz: .+; lmm: .+$", said, re.MULTILINE), said
    assert "Traceback" not in said
    assert "Building DAG" not in said


def test_a_rule_carries_the_digest_of_the_module_that_it_runs() -> None:
    rules = "\n".join(path.read_text() for path in (ROOT / "rules").glob("*.smk"))
    for rule in re.split(r"^rule ", rules, flags=re.MULTILINE)[1:]:
        ran = re.findall(r"python -m (pipeline(?:\.\w+)+)", rule)
        assert ran == re.findall(r'=(?:code|provenance\.source_digest)\(\s*"(pipeline(?:\.\w+)+)"', rule), rule


def test_what_the_report_makes_is_declared(outputs: list[Output]) -> None:
    made = {output.path for output in outputs}
    expected = {f"results/tables/{name}.{suffix}" for name in tables.TABLES for suffix in tables.FORMATS}
    expected |= {f"figures/{name}.{suffix}" for name in figures.FIGURES for suffix in figures.FORMATS}
    assert expected < made


def test_a_fresh_clone_with_the_committed_report_makes_everything(settled: Study, tmp_path: Path) -> None:
    clone = settled.copy(tmp_path / "clone")
    shutil.rmtree(clone.folder / ".snakemake")
    for folder in (clone.folder / "results").iterdir():
        if folder.is_file():
            folder.unlink()
        elif folder.name != "tables":
            shutil.rmtree(folder)
    jobs = re.findall(r"^(\w+) +(\d+)$", clone.snakemake("--dry-run", "--quiet", "rules"), re.MULTILINE)
    everything = re.findall(
        r"^(\w+) +(\d+)$", settled.snakemake("--dry-run", "--forceall", "--quiet", "rules"), re.MULTILINE
    )
    assert jobs == everything
    assert dict(jobs)["tables"] == "1"


def test_every_output_lies_in_one_dvc_out(outputs: list[Output]) -> None:
    for output in outputs:
        holding = [out for stage in STAGES.values() for out in _outs(stage) if Path(output.path).is_relative_to(out)]
        assert len(holding) == 1, f"{output.path} lies in {holding}"


@pytest.mark.parametrize("name", STAGES)
def test_a_dvc_stage_declares_what_its_rules_read(outputs: list[Output], name: str) -> None:
    stage = STAGES[name]
    own = [output for output in outputs if _stage(output.path) == name]
    assert stage["cmd"] == f"snakemake --cores all {name}"
    assert set(stage["deps"]) == _read(name, own)
    used = _used(own)
    assert {key for key in used if not _covers(stage["params"], key)} == set(), "used, not declared"
    assert {key for key in stage["params"] if not any(_covers([key], u) for u in used)} == set(), "declared, not used"


@pytest.mark.parametrize(
    ("changes", "rerun"),
    [
        ({"lm": {"steps": 7}}, MODELS),
        ({"evaluation": {"bootstrap": 7}}, f"results/evaluation/|{HEARD}|{REPORTED}"),
        (
            {"report": {"confidence": 0.5}},
            "results/dependence/((?!snapshots/).*-seed|conditional/)|results/generation/information/|results/evaluation/scores/|"
            f"{REPORTED}",
        ),
        ({"study": {"codecs": {"mmd": {"loss": {"weight": 7.0}}}}}, f".*/mmd-seed|{HEARD}|{REPORTED}"),
        # The calibration has the frame rate, which is of the architectures.
        (
            {"codec": {"seanet": {"training": {"steps": 7}}}},
            f".*/seanet-(mmd-|residual-)?seed|results/dependence/(conditional/)?calibration|{HEARD}|{REPORTED}",
        ),
    ],
    ids=["lm.steps", "evaluation.bootstrap", "report.confidence", "study.codecs.mmd.loss.weight", "codec.seanet"],
)
def test_a_changed_parameter_reruns_what_depends_on_it(
    settled: Study, tmp_path: Path, changes: dict[str, Any], rerun: str
) -> None:
    study = settled.copy(tmp_path / "study")
    study.configure(changes)
    _assert_pending(study, rerun)


@pytest.mark.parametrize(
    ("module", "rerun"),
    [
        ("generation/sampling", GENERATED),
        ("lm/patterns", MODELS),
        ("report/figures", f"figures/|{PAGE}"),
        ("evaluation/frechet", f"results/evaluation/scores/|{REPORTED}"),
        ("codec/reconstruction", f"results/(codec/[^/]+/metrics|dependence/snapshots/)|{REPORTED}"),
        (
            "generation/decode",
            "results/generation/(reconstruction|kept|shuffled|information)/|"
            f"results/evaluation/embeddings/(reconstruction|kept|shuffled)/|results/evaluation/scores/.*-seed|{HEARD}|{REPORTED}",
        ),
        (
            "generation/shuffle",
            f"results/generation/shuffled/|results/evaluation/.*/shuffled/|{REPORTED}",
        ),
        ("generation/information", f"results/generation/information/|{REPORTED}"),
        ("corpus/datasets", "nothing"),
    ],
)
def test_changed_code_reruns_what_it_computes(settled: Study, tmp_path: Path, module: str, rerun: str) -> None:
    study = settled.copy(tmp_path / "study")
    study.append(f"pipeline/{module}.py", "ADDED = 1\n")
    _assert_pending(study, rerun)


def test_what_decides_no_result_reruns_nothing(settled: Study, tmp_path: Path) -> None:
    """Comments, devices, sources of downloads, and new dates on old contents, as after `dvc checkout`."""
    study = settled.copy(tmp_path / "study")
    study.append("pipeline/audio.py", "# Said better.\n")
    study.configure({"runtime": {"device": "auto", "archive": "elsewhere", "downloads": "elsewhere"}})
    for path in (study.folder / "results").rglob("*.*"):
        os.utime(path)
    assert study.pending() == set()


def test_an_overwritten_clip_of_another_system_is_scored_again(settled: Study, tmp_path: Path) -> None:
    study = settled.copy(tmp_path / "study")
    clip = study.folder / "their music" / "a.wav"
    clip.parent.mkdir()
    clip.write_text("one")
    (study.folder / "their captions.csv").write_text("file,caption\na.wav,slow")
    theirs = {"folder": "their music", "captions": "their captions.csv"}
    study.configure({"evaluation": {"systems": {"theirs": theirs}}})
    study.settle()
    stat = clip.stat()
    clip.write_text("two")
    os.utime(clip, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    _assert_pending(study, f"results/evaluation/(embeddings|scores)/outside/theirs|{HEARD}|{REPORTED}")


def test_the_users_own_music_decides_by_its_content(settled: Study, tmp_path: Path) -> None:
    study = settled.copy(tmp_path / "study")
    song, table = study.folder / "music" / "a.wav", study.folder / "captions.csv"
    song.parent.mkdir()
    song.write_text("one")
    table.write_text("file,caption")
    study.configure({"corpus": {"source": "folder", "local": {"audio": "music", "metadata": "captions.csv"}}})
    study.settle()
    os.utime(song)
    assert study.pending() == set()
    table.write_text("file,caption\na.wav,slow piano")
    assert "results/corpus/audio.npy" in study.pending()


def test_a_codec_that_comes_trained_is_adopted_and_decides_by_its_content(settled: Study, tmp_path: Path) -> None:
    study = settled.copy(tmp_path / "study")
    weights = study.folder / "their codec" / "model.safetensors"
    weights.parent.mkdir()
    weights.write_text("one")
    theirs = {"theirs": {"pretrained": "their codec", "codebooks": 4}}
    study.configure({"study": {"codecs": theirs, "language_models": {"delay": {"codecs": {"theirs": [0]}}}}})
    study.settle()
    made = {output.path: output for output in study.outputs() if "theirs-seed0" in output.path}
    adopted = {path for path, output in made.items() if output.module == "pipeline.exchange.adopt"}
    assert adopted == {f"results/codec/theirs-seed0/model.{suffix}" for suffix in ("json", "safetensors")}
    assert {"results/lm/delay/theirs-seed0-lm0/model.json", "results/dependence/theirs-seed0.json"} < made.keys()
    assert not any("history" in path or "snapshots/theirs" in path for path in made if path.startswith("results/codec"))
    assert not any(path.startswith("results/dependence/snapshots/theirs") for path in made)
    os.utime(weights)
    assert study.pending() == set()
    weights.write_text("two")
    _assert_pending(study, f".*/theirs-seed0|{HEARD}|{REPORTED}")


def test_a_codec_may_have_any_name(settled: Study, tmp_path: Path) -> None:
    study = settled.copy(tmp_path / "study")
    names = ["trunk", "trunk-residual", "residual", "tokens", "learned", "conditional", "text", "reconstruction"]
    codecs = dict.fromkeys(names, DEFAULTS["study"]["codecs"]["mmd"])
    modelled = {"codecs": {name: [0] for name in names}}
    study.configure({"study": {"codecs": codecs, "language_models": {"delay": modelled}}})
    made = [output.path for output in study.outputs()]
    assert len(made) == len(set(made))
    for name in names:
        assert f"results/codec/{name}-seed0/model.safetensors" in made
        assert f"results/evaluation/scores/generation/delay/{name}-seed0-lm0.json" in made


def _outs(stage: dict[str, Any]) -> list[str]:
    return [next(iter(out)) for out in stage["outs"]]


def _stage(path: str) -> str:
    return next(name for name, stage in STAGES.items() if any(Path(path).is_relative_to(out) for out in _outs(stage)))


def _read(name: str, outputs: list[Output]) -> set[str]:
    """The code, and outs of other stages that lie behind a stage's outputs."""
    others = {_stage(path) for output in outputs for path in output.inputs} - {name}
    return {"pipeline", "rules", *(out for o in others for out in _outs(STAGES[o]))}


def _used(outputs: list[Output]) -> set[str]:
    """Dotted names of the parameters that decide which outputs there are and what is in them."""
    used = {key for output in outputs for key in _leaves(output.settings)}
    for output in outputs:
        if "-seed" in output.path:
            used.add("study")
        if "/snapshot/" in output.path:
            used.add("lm.snapshots")
    return used


def _leaves(settings: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in settings.items():
        if prefix + key == "loss":
            yield "study"
        elif prefix + key == "confidence":
            yield "report.confidence"
        elif prefix + key == "snapshots":
            yield "lm.snapshots"
        elif prefix + key == "gallery_clips":
            yield "report.gallery_clips"
        elif isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key


def _covers(declared: list[str], key: str) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in declared)


def _assert_pending(study: Study, pattern: str) -> None:
    outputs = study.outputs()
    assert {o.path for o in outputs if o.pending} == {o.path for o in outputs if re.match(pattern, o.path)}
