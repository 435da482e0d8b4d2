"""Parameters: the file that is there, every rule between fields, and keys that nobody knows."""

import copy
import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from pydantic import BaseModel

from pipeline import params

ROOT = Path(__file__).parent.parent
DEFAULTS = yaml.safe_load((ROOT / "params.yaml").read_text())


def changed(key: str, value: Any) -> dict[str, Any]:
    whole = copy.deepcopy(DEFAULTS)
    *path, last = key.split(".")
    inner = whole
    for name in path:
        inner = inner[name]
    inner[last] = value
    return whole


def check(data: Any) -> params.Params:
    return params.checked(params.Params, data, "params.yaml")


def models(model: type[BaseModel]) -> set[type[BaseModel]]:
    found = {model}
    parts = [field.annotation for field in model.model_fields.values()]
    for part in parts:
        if isinstance(part, type) and issubclass(part, BaseModel):
            found |= models(part)
        parts += get_args(part)
    return found


def test_the_repositorys_parameters_fit() -> None:
    whole = params.load(ROOT / "params.yaml")
    assert whole.model_dump(mode="json") == json.loads(json.dumps(DEFAULTS))


def test_no_default_hides_outside_the_file() -> None:
    sections = models(params.Params).union(*map(models, [params.CodecTraining, *params.SIZES.values()]))
    for model in sections:
        assert all(field.is_required() for field in model.model_fields.values()), model
    named = {params.Independence, params.PretrainedCodec, params.Discriminator, params.Stft, params.Band}
    assert named <= sections


@pytest.mark.parametrize(
    ("key", "value", "complaint"),
    [
        (
            "study.language_models.delay.codecs",
            {"baseline": [0], "mdm": [0]},
            r"delay.codecs names \['mdm'\], not in study.codecs",
        ),
        (
            "study.language_models.flatten.codecs.baseline",
            [0, 7],
            r"flatten.codecs.baseline names the seeds \[7\], not in study.codecs.baseline.seeds",
        ),
        (
            "codec.independence.start",
            0.05,
            r"yaml: codec.independence.start is 0.05; it must not be under codec.stft.training.quantize_from \(0.07\)",
        ),
        ("study.codecs.mmd.architecture", "frames", r"mmd.architecture: 'frames' is not one of band, seanet, stft"),
        (
            "codec.seanet.ratios",
            [4, 4, 5],
            r"codec.seanet has 80 samples a frame and codec.stft has 640: codecs",
        ),
        ("codec.stft.window", 480, r"yaml: codec.stft: window \(480\) must be an even multiple of hop \(160\)"),
        ("codec.stft.hop", 5, r"codec.stft: window \(640\) must be an even multiple of hop \(5\), an even number too"),
        (
            "codec.stft.window",
            2560,
            r"codec.stft: window \(2560\) reaches past a clip's ends by more than a frame",
        ),
        ("codec.stft.complex_bins", 322, r"codec.stft: complex_bins is 322, and the window has 321 bins"),
        ("codec.stft.kernel_size", 8, r"codec.stft: kernel_size must be odd, not 8"),
        ("codec.band.mel_bins", 63, r"codec.band: mel_bins \(63\) must be a multiple of bands \(4\)"),
        (
            "codec.band.mel_bins",
            256,
            r"codec.band: mel_bins is 256: a window of 640 samples has no bin for some of them",
        ),
        ("codec.band.hop", 320, r"codec.band has 1280 samples a frame and codec.stft has 640: codecs"),
        ("codec.stft.training.mel_windows_a_step", 6, r"stft.training: mel_windows_a_step is 6 of 5 mel_windows"),
        ("codec.stft.training.discriminator.windows_a_step", 3, r"discriminator: windows_a_step is 3 of 2 windows"),
        (
            "codec.seanet.training.balancer",
            True,
            r"codec.seanet.training: the balancer weighs all losses from the",
        ),
        (
            "codec.codebooks",
            3,
            r"codec.dimension \(64\) must be a multiple of codec.codebooks \(3\) where study.codecs.grouped\.",
        ),
        (
            "codec.stft.training",
            DEFAULTS["codec"]["stft"]["training"] | {"cosine_weight": 0, "mel_weight": 0},
            r"codec.stft.training: no loss holds the decoder's output to its target",
        ),
        (
            "lm.positions",
            "rotary_2d",
            r"study.language_models.delay hold several codebooks: leave it out .*: flatten\)",
        ),
        (
            "study.codecs.mmd.loss",
            DEFAULTS["study"]["codecs"]["mmd-delay"]["loss"] | {"stream": "time"},
            "study.codecs.mmd.loss: delay shifts codebooks, and the streams of time are none: set delay to false",
        ),
        ("lm.heads", 7, r"must be a multiple of lm.heads \(7\)"),
        (
            "codec.seanet.training.segment_seconds",
            0.05,
            "codec.seanet.training.mel_windows has 1024 samples, and segment_seconds gives 800: take shorter",
        ),
    ],
)
def test_what_does_not_fit_together_is_named(key: str, value: Any, complaint: str) -> None:
    with pytest.raises(params.ParamsError, match=complaint):
        check(changed(key, value))


@pytest.mark.parametrize(("frames", "delay"), [(25, False), (22, True)])
def test_a_past_that_fills_the_segments_is_named_where_innovations_are_asked_for(frames: int, delay: bool) -> None:
    """Of 25 frames a segment, of which a delay drops three."""
    whole = changed("codec.independence.innovation.frames", frames)
    check(whole)
    whole["study"]["codecs"]["mmd"]["loss"] |= {"stream": "innovation", "delay": delay}
    with pytest.raises(params.ParamsError, match=rf"innovation.frames \({frames}\) leaves no frame of the 25"):
        check(whole)
    whole["codec"]["independence"]["innovation"]["frames"] -= 1
    check(whole)


@pytest.mark.parametrize(
    ("key", "value", "complaint"),
    [
        ("lm.widht", 3, r"params.yaml: lm.widht: Extra inputs are not permitted"),
        (
            "codec.codebook_sise",
            3,
            "codec: there is no key 'codebook_sise' here, and no codec architecture of that name",
        ),
        ("codec.seanet.training.stepz", 3, "yaml: codec.seanet.training.stepz: Extra"),
        ("codec.stft.widht", 3, "yaml: codec.stft.widht: Extra"),
        ("codec.stft", 3, "yaml: codec.stft must hold the sizes and training of"),
        ("extra", {}, "extra: Extra"),
        (
            "study.language_models.zigzag",
            {"codecs": {"mmd": [0]}, "seeds": [0]},
            "'zigzag' is not one of parallel, delay,",
        ),
        (
            "corpus.source",
            "vinyl",
            "corpus.source: 'vinyl' is not one of folder, musiccaps, jamendo, fma, scores, sound",
        ),
        ("study.codecs.mmd.architecture", "wavenet", "mmd.architecture: 'wavenet' is not one of band, seanet, stft"),
        ("generation.decoding", "greedy", "generation.decoding: 'greedy' is not one of factorised"),
        ("evaluation.embedders.vgg", 3, "'vgg' is not one of musicnn-mtt, "),
        ("report.claims", ["C1", "C99"], "report.claims.1: 'C99' is not one of C1, C2,"),
        ("study.codecs.mmd.seeds", [0, 0], r"study.codecs.mmd.seeds: \[0\] more than once: name each once"),
        ("study.language_models.delay.seeds", [1, 0, 1], r"delay.seeds: \[1\] more than once"),
        ("study.language_models.delay.codecs.mmd", [2, 2], r"delay.codecs.mmd: \[2\] more than once"),
        ("report.claims", ["C1", "C1"], r"report.claims: \['C1'\] more than once"),
        ("codec.codebooks", 0, "codec.codebooks: Input should be greater than 0"),
        (
            "study.codecs.mmd.quantizer",
            "product",
            "study.codecs.mmd.quantizer: 'product' is not one of .*residual, grouped",
        ),
        ("codec.seanet.pad_mode", "zero", "codec.seanet.pad_mode: Input should be 'reflect' or 'constant'"),
        ("codec.independence.innovation.frames", 0, "independence.innovation.frames: Input should be greater than 0"),
        ("codec.independence.innovation.ridge", [], "independence.innovation.ridge: .*at least 1 item"),
        ("codec.independence.innovation.ridge", [1.0, 0.0], "innovation.ridge.1: Input should be greater than 0"),
        ("codec.codebooks", 2.5, "codec.codebooks: .*integer"),
        ("codec.levels", [128, 2], "codec.levels.1: .*greater than or equal to 3"),
        ("codec.quantizer_dropout", 1.5, "codec.quantizer_dropout: .*less than or equal to 1"),
        ("codec.stft.training.learning_rate", -1, "learning_rate: Input should be greater than 0"),
        ("codec.stft.training.learning_rate", float("nan"), "learning_rate: .*finite"),
        ("codec.stft.training.betas", [0.9, 1.1], "codec.stft.training.betas.1: .*less than or equal to 1"),
        ("codec.stft.training.mel_windows", [], "mel_windows: .*at least 1 item"),
        ("codec.stft.training.mel_windows", [2], "mel_windows.0: .*greater than or equal to 4"),
        ("codec.stft.training.discriminator.windows", [], "discriminator.windows: .*at least 1 item"),
        ("codec.stft.training.adversarial_weight", -1, "adversarial_weight: .*greater than or equal to 0"),
        ("codec.stft.training.balancer_decay", 1.1, "balancer_decay: .*less than or equal to 1"),
        (
            "study.codecs.mmd.loss.estimator",
            "exact",
            "estimator: Input should be 'closed_form', 'permutation' or 'audio",
        ),
        (
            "study.codecs.mmd.loss.stream",
            "codes",
            "study.codecs.mmd.loss.stream: Input should be 'quantized', 'input', 'residual'",
        ),
        ("study.codecs", {}, "study.codecs: .*at least 1"),
        (
            "study.codecs",
            {"a b": DEFAULTS["study"]["codecs"]["mmd"]},
            "study.codecs.*String should match",
        ),
        ("study.codecs.mmd.seeds", [-1], "study.codecs.mmd.seeds.0: .*greater than or equal to 0"),
        (
            "study.codecs.x",
            {"pretrained": "x", "codebooks": 1},
            "study.codecs.x.codebooks: .*greater than or equal to 2",
        ),
        ("study.codecs.x", {"pretrained": "", "codebooks": 2}, "study.codecs.x.pretrained: .*at least 1 character"),
        ("study.codecs.x", {"pretrained": "x"}, "study.codecs.x.codebooks: Field required"),
        ("study.codecs.x", {"pretrained": "x", "codebooks": 2, "seeds": [0]}, "study.codecs.x.seeds: Extra inputs"),
        ("study.codecs.x", {"seeds": [0]}, "study.codecs.x.architecture: Field required"),
        ("study.codecs.x", 3, "study.codecs.x: Input should be a valid dictionary"),
        ("study.shuffled", [0, 7], r"study.shuffled names the seeds \[7\], which no codec of study.codecs has"),
        ("study.kept", [3, 3], r"study.kept: \[3\] more than once"),
        ("study.kept", [1, 4], "study.kept has 4: keep fewer than the 4 of codec.codebooks"),
        ("lm.optimizer", "sgd", "lm.optimizer: Input should be 'muon' or 'adamw'"),
        ("lm.crop_seconds", -1, "lm.crop_seconds: .*greater than or equal to 0"),
        ("lm.snapshots", [0.055], "lm.snapshots.0: .*multiple of 0.01"),
        ("lm.snapshots", [1.0], "lm.snapshots.0: .*less than 1"),
        ("lm.snapshots", [0.2, 0.2], r"lm.snapshots: \[0.2\] more than once"),
        ("runtime.device", "tpu", "runtime.device: Input should be 'auto', 'cpu' or 'cuda'"),
    ],
)
def test_a_faulty_value_is_named_with_its_key(key: str, value: Any, complaint: str) -> None:
    with pytest.raises(params.ParamsError, match=complaint):
        check(changed(key, value))


@pytest.mark.parametrize(("key", "value"), [("codec.band.bands", 2), ("codec.codebooks", 8)])
def test_the_streams_of_a_codec_of_bands_are_its_bands(key: str, value: int) -> None:
    whole = changed(key, value)
    check(whole)
    whole["study"]["codecs"]["mmd"] |= {"architecture": "band", "quantizer": "shared"}
    with pytest.raises(params.ParamsError, match=r"codec.band.bands is . and codec.codebooks is .: they must be equal"):
        check(whole)


def test_one_codebook_for_all_parts_asks_for_parts() -> None:
    whole = changed("codec.dimension", 62)
    whole["study"]["codecs"] = {"mmd": whole["study"]["codecs"]["mmd"] | {"quantizer": "shared"}}
    whole["study"]["language_models"] = {}
    with pytest.raises(params.ParamsError, match=r"multiple of codec.codebooks \(4\) where .*mmd.quantizer is shared"):
        check(whole)


def test_rotary_positions_go_with_patterns_of_one_place_a_step() -> None:
    whole = changed("lm.positions", "rotary_2d")
    models = whole["study"]["language_models"]
    models["delay"]["codecs"], models["parallel"] = {}, {"codecs": {}, "seeds": [0]}
    assert check(whole).lm.positions == "rotary_2d"
    whole["lm"] |= {"width": 90, "heads": 3}
    with pytest.raises(params.ParamsError, match=r"lm.width / lm.heads \(30\) must be a multiple of 4"):
        check(whole)


def test_levels_make_the_codebook_where_a_codec_has_them() -> None:
    assert check(changed("codec.levels", [8, 5, 5])).codec.levels == [8, 5, 5]
    whole = changed("codec.levels", [8, 5, 5])
    whole["study"]["codecs"]["mmd"]["quantizer"] = "fsq"
    complaint = r"codec.levels \(\[8, 5, 5\]\) make 200 codes and must make codec.codebook_size \(256\) where "
    with pytest.raises(params.ParamsError, match=complaint + r"study.codecs.mmd.quantizer is fsq"):
        check(whole)


def test_a_pretrained_codec_has_one_seed() -> None:
    whole = changed("study.codecs.theirs", {"pretrained": "a folder", "codebooks": 8})
    whole["study"]["language_models"]["delay"]["codecs"]["theirs"] = [0]
    study = check(whole).study
    assert study.pretrained == {"theirs": params.PretrainedCodec(pretrained="a folder", codebooks=8)}
    assert study.trained.keys() == DEFAULTS["study"]["codecs"].keys()
    assert params.Study.model_validate(study.model_dump()) == study
    whole["study"]["language_models"]["delay"]["codecs"]["theirs"] = [0, 1]
    with pytest.raises(params.ParamsError, match=r"theirs names the seeds \[1\]; a pretrained codec has 0 alone"):
        check(whole)


def test_every_fault_is_named_at_once() -> None:
    whole = changed("codec.codebooks", 0)
    del whole["lm"]["width"]
    with pytest.raises(params.ParamsError, match=r"codec.codebooks: .*; lm.width: Field required"):
        check(whole)
    whole = changed("codec.seanet.filters", 0)
    del whole["codec"]["seanet"]["ratios"], whole["codec"]["seanet"]["training"]["steps"]
    sizes = r"yaml: codec.seanet.filters: Input should be greater than 0; codec.seanet.ratios: Field required$"
    with pytest.raises(params.ParamsError, match=sizes):
        check(whole)


@pytest.mark.parametrize(
    ("weights", "adversarial"),
    [({}, False), ({"adversarial_weight": 4}, True), ({"feature_weight": 4}, True)],
)
def test_a_weight_above_0_asks_for_the_discriminator(weights: dict[str, Any], adversarial: bool) -> None:
    none = {"adversarial_weight": 0, "feature_weight": 0}
    whole = changed("codec.seanet.training", DEFAULTS["codec"]["seanet"]["training"] | none | weights)
    training = check(whole).codec.of("seanet").training
    assert training.adversarial == adversarial
    assert list(training.output_weights) == ["l1", "mel", "si_sdr", *(name.removesuffix("_weight") for name in weights)]


def test_what_an_architecture_needs_is_its_section_and_what_all_share() -> None:
    codec = check(DEFAULTS).codec
    assert codec.architectures == ["stft", "band", "seanet"]
    assert codec.hop_length == codec.of("stft").sizes.hop_length == codec.of("seanet").sizes.hop_length == 640
    assert codec.of("stft").loss_from == DEFAULTS["codec"]["stft"]["training"]["steps"] // 2
    with pytest.raises(ValueError, match=r"codec.frames must hold the sizes and training of that architecture"):
        codec.of("frames")
    alone = copy.deepcopy(DEFAULTS)
    del alone["codec"]["seanet"]
    with pytest.raises(params.ParamsError, match=r"codecs.seanet.architecture is seanet, and codec has no section"):
        check(alone)
    del alone["codec"]["stft"], alone["codec"]["band"]
    with pytest.raises(params.ParamsError, match=r"codec: there is no section of an architecture: band, seanet, stft"):
        check(alone)


def test_a_missing_key_is_named() -> None:
    whole = copy.deepcopy(DEFAULTS)
    del whole["report"]
    with pytest.raises(params.ParamsError, match=r"params.yaml: report: Field required"):
        check(whole)


@pytest.mark.parametrize("data", [None, [], "text", 3])
def test_what_is_no_mapping_is_named(data: Any) -> None:
    with pytest.raises(params.ParamsError, match=r"params.yaml: Input should be a valid dictionary"):
        check(data)


def test_parameters_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        check(DEFAULTS).lm.width = 3


def test_a_section_is_read_from_a_file_and_from_json_alike(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(DEFAULTS))
    from_file = params.section(str(path), "lm", params.LanguageModel)
    assert from_file == params.section(json.dumps({"lm": DEFAULTS["lm"]}), "lm", params.LanguageModel)
    assert from_file == check(DEFAULTS).lm


def test_a_section_that_is_not_handed_over_is_named() -> None:
    with pytest.raises(params.ParamsError, match="--params lacks the section 'lm'"):
        params.section(json.dumps({"codec": {}}), "lm", params.LanguageModel)
    with pytest.raises(params.ParamsError, match=r"--params, lm: width: Field required"):
        params.section(json.dumps({"lm": {}}), "lm", params.LanguageModel)


def test_an_empty_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").touch()
    with pytest.raises(params.ParamsError, match="lacks the section"):
        params.section(str(tmp_path / "params.yaml"), "lm", params.LanguageModel)
    with pytest.raises(params.ParamsError, match="valid dictionary"):
        params.load(tmp_path / "params.yaml")


def test_a_file_that_is_not_there_is_named() -> None:
    with pytest.raises(OSError, match=r"nowhere\.yaml"):
        params.section("nowhere.yaml", "lm", params.LanguageModel)


def test_choices_are_the_keys_of_the_tables_that_the_code_has() -> None:
    for table, package in params.TABLES.items():
        modules = {importlib.import_module(module) for module in params.choices(table).values()}
        assert {m.__name__.split(".")[1] for m in modules} == {package}
        names = [name for module in sorted(modules, key=str) for name in vars(module)[table]]
        assert list(params.choices(table)) == names


def test_a_choice_is_what_stands_in_its_table() -> None:
    from pipeline.lm.patterns import PATTERNS

    assert params.choice("PATTERNS", "delay") is PATTERNS["delay"]
    with pytest.raises(ValueError, match="'zigzag' is not one of parallel"):
        params.choice("PATTERNS", "zigzag")


def test_names_are_read_without_importing_what_computes() -> None:
    code = "import sys; from pipeline import params, provenance, study; [params.choices(t) for t in params.TABLES]; "
    code += "print(sorted({'torch', 'pandas', 'matplotlib', 'transformers'} & set(sys.modules)))"
    answer = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert answer.stdout == "[]\n"


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("T = {'a': 1, 'b': 2}", ["a", "b"]),
        ("T: dict[str, int] = {'a': 1}\nT['b'] = 2", ["a", "b"]),
        ("U = {'a': 1}\ndef f():\n    T = {'b': 1}", []),
        ("import x\nx.T['a'] = 1", []),
    ],
)
def test_a_tables_names_are_read_from_its_source(source: str, names: list[str], tmp_path: Path) -> None:
    (tmp_path / "x.py").write_text(source)
    assert [key.value for key in params._keys(tmp_path / "x.py", "T")] == names


def test_the_level_of_intervals_is_read_alone_and_from_the_whole(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(changed("report.confidence", 0.8)))
    assert params.confidence(str(path)) == params.confidence('{"confidence": 0.8}') == 0.8
    with pytest.raises(params.ParamsError, match=r"--params, confidence: .*less than or equal to 1"):
        params.confidence('{"confidence": 8}')
