"""Somebody else's codec, as a run of the study: its first codebooks, in the files of a codec that the study trained.

    python -m pipeline.exchange.adopt --model encodec_24khz --codebooks 4 --out results/codec/encodec-seed0

`--model` is a folder on this machine: one that `save_pretrained` of transformers wrote, of a model that a table
`PRETRAINED` names (`pipeline.codec.pretrained`), one that `pipeline.exchange.encodec` exported, or that of a codec of
this project. Nothing is downloaded, and nothing unpickled.
"""

from pathlib import Path
from typing import Any

from torch import Tensor

from pipeline import job, params, provenance
from pipeline.codec import model as codecs
from pipeline.codec.pretrained import FromTransformers, Own, Pretrained
from pipeline.exchange import encodec

EXPORTED = (encodec.LATENT_NORM, encodec.STFT_CODEC)  # models that only this project's exports have
WEIGHTS = "model.safetensors"


def adopt(folder: Path, codebooks: int, sample_rate: int) -> Pretrained:
    """The codec in `folder`, cut to its first K = `codebooks`, for waveforms at `sample_rate` Hz.

    Raises:
        ValueError: `folder` holds no such codec, or not all of one; it is of a kind that is not supported; a weight is
            NaN or infinite; it has one codebook alone, fewer than K, or codebooks of different sizes.
    """
    own = (folder / "model.json").is_file()
    if not own and not (folder / "config.json").is_file():
        raise ValueError(
            f"{folder} holds neither config.json, as a model of transformers has, nor model.json, as a codec of this "
            "project: give the folder of a codec on this machine, for nothing is downloaded"
        )
    if not (folder / WEIGHTS).is_file():
        raise ValueError(f"{folder / WEIGHTS} is missing: weights are read from such a file alone, never unpickled")
    named = {"sample_rate": sample_rate, "codebooks": codebooks}
    codec = _own(folder, named) if own else _from_config(folder, named)
    codec.configuration["codebook_size"] = _codebook_size(codec, folder)
    for weight, value in codec.state_dict().items():
        if not value.isfinite().all():
            raise ValueError(f"{folder / WEIGHTS}: {weight} holds NaN or infinity: download or export it again")
    return codec.eval()


def _own(folder: Path, named: dict[str, Any]) -> Pretrained:
    codec = codecs.load(folder)
    if not isinstance(codec, codecs.Codec):
        raise ValueError(f"{folder} was adopted itself: give the folder that its model.json names under provenance")
    return _wrapped(codec, named)


def _from_config(folder: Path, named: dict[str, Any]) -> Pretrained:
    """As `config.json` names the model."""
    settings = encodec.read_settings(folder / "config.json")
    kind = settings.get("model_type")
    if kind in EXPORTED:
        return _wrapped(encodec.load_encodec(folder), named)
    entry = params.choice("PRETRAINED", kind) if kind in params.choices("PRETRAINED") else None
    if not (isinstance(entry, type) and issubclass(entry, FromTransformers)):
        known = [name for name in params.choices("PRETRAINED") if name != "own"]
        raise ValueError(f"{folder / 'config.json'} describes a model of type {kind!r}: give one of {', '.join(known)}")
    config_class, model_class = entry.classes()
    config = encodec.checked_config(config_class, settings, folder)
    if faults := entry.faults(config):
        raise ValueError(f"{folder / 'config.json'}: {kind} is not supported where {'; '.join(faults)}")
    codec: Pretrained = entry({"pretrained": kind, "model": config.to_dict(), **named})
    codec.network.load_state_dict(_weights(model_class, config, folder))
    return codec


def _weights(model_class: Any, config: Any, folder: Path) -> dict[str, Tensor]:
    """Weights by the names that the model has in memory; transformers knows what older files call them.

    Raises:
        ValueError: the file is not whole, or lacks a weight or has one of another shape, for which transformers would
            draw one at random.
    """
    encodec.read_weights(folder / WEIGHTS)
    model, found = model_class.from_pretrained(
        folder,
        config=config,
        local_files_only=True,
        use_safetensors=True,
        ignore_mismatched_sizes=True,
        output_loading_info=True,
    )
    mismatched = [name for name, *_ in found["mismatched_keys"]]
    for what, names in (("lacks", found["missing_keys"]), ("has another shape of", mismatched)):
        if names:
            raise ValueError(f"{folder}: the weights do not fit config.json: {WEIGHTS} {what} {sorted(names)[0]}")
    weights: dict[str, Tensor] = model.float().state_dict()
    return weights


def _wrapped(codec: codecs.Codec, named: dict[str, Any]) -> Pretrained:
    own = Own({"pretrained": "own", "model": codec.configuration, **named})
    own.network.load_state_dict(codec.state_dict())
    return own


def _codebook_size(codec: Pretrained, folder: Path) -> int:
    """C, of codebooks that are alike and enough."""
    kept, there = codec.configuration["codebooks"], len(codec.sizes)
    if there < 2:
        raise ValueError(f"{folder} has one codebook, and dependence is between two or more: give another codec")
    if not 2 <= kept <= there:
        raise ValueError(f"{folder} has {there} codebooks, and {kept} were to be kept: keep 2 to {there}")
    sizes = set(codec.sizes[:kept])
    if len(sizes) > 1:
        raise ValueError(f"{folder} has codebooks of {codec.sizes} codes: those that are kept must be of one size")
    return sizes.pop()


def main() -> None:
    """Writes a codec from outside as a codec of the study."""
    parser = job.parser("Adopt a codec that others trained.")
    parser.add_argument("--model", type=Path, required=True, help="folder of the codec")
    parser.add_argument("--codebooks", type=int, required=True, help="keep so many of its codebooks, the first")
    parser.add_argument("--out", type=Path, required=True, help="folder to write; not that of the model")
    arguments = parser.parse_args()
    job.prepare(arguments)
    if arguments.out.resolve() == arguments.model.resolve():
        raise ValueError(f"--out is {arguments.out}, the model's own folder, whose files would be overwritten")
    sample_rate = params.section(arguments.params, "corpus", params.Corpus).sample_rate
    codec = adopt(arguments.model, arguments.codebooks, sample_rate)
    files = [path for path in sorted(arguments.model.iterdir()) if path.name in ("config.json", "model.json", WEIGHTS)]
    origin = {"folder": str(arguments.model), "files": {path.name: provenance.file_digest(path) for path in files}}
    codecs.save(codec, arguments.out, provenance.record(origin))


if __name__ == "__main__":
    job.run(main)
