"""Embedders by name: what turns waveforms into the vectors that distances between sets of music are taken of.

`musicnn-mtt`, `musicnn-msd` and `cdpam` come from packages and need no model hub. The checkpoints of the others are in
no package: they lie in a local folder, or are downloaded to it. `passt` runs through hear21passt; `vggish`,
`clap-laion-music`, `encodec` and `pann` run through frechet-audio-distance and laion-clap, which are imported only
then: they ask a model hub at import.
"""

import io
import os
import pickle
import warnings
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pipeline import audio, fetch, provenance
from pipeline.evaluation.frechet import Gaussian
from pipeline.job import JobError
from pipeline.params import choice
from pipeline.pretrained import cdpam, musicnn

ROBERTA_TOKENS = 50_265
ENCODEC_AT_ONCE = 4  # clips: more leave the processor's cache
PASST_SECONDS, PASST_LEAST = 10, 0.5  # that PaSST hears at once; of a clip's last piece, less than which is left out
# Its spectrogram, as hear21passt makes it for this checkpoint.
PASST_MEL = {"n_mels": 128, "sr": 32_000, "win_length": 800, "hopsize": 320, "n_fft": 1024, "freqm": 48, "timem": 192}
PASST_MEL |= {"htk": False, "fmin": 0.0, "fmax": None, "norm": 1, "fmin_aug_range": 10, "fmax_aug_range": 2000}


class Embedder(NamedTuple):
    """A network that embeds waveforms; some also tag them, or embed texts."""

    name: str
    sample_rate: int  # Hz
    embed: Callable[[Tensor], Tensor]  # [B, T], full scale 1 -> [B, n, D]
    identity: str  # of what decides its answers: code, weights, torch, kind of device
    resample: Callable[[np.ndarray, int, int], np.ndarray] = audio.resample
    tags: Callable[[Tensor], Tensor] | None = None  # [..., D] -> logits [..., C]
    text: Callable[[list[str]], Tensor] | None = None  # texts -> [B, D], unit vectors as `embed`'s


class Checkpoint(NamedTuple):
    """A file that an embedder needs, under the folder of checkpoints, and who published it."""

    path: str
    source: str


class Outside(NamedTuple):
    """An embedder whose checkpoints no package has: how its package is asked for it, and what it needs."""

    options: dict[str, Any]
    dimension: int
    checkpoints: tuple[Checkpoint, ...]


OUTSIDE = {
    "vggish": Outside(
        {"model_name": "vggish", "sample_rate": 16_000},
        128,
        (
            Checkpoint("harritaylor_torchvggish_master/hubconf.py", "https://github.com/harritaylor/torchvggish"),
            Checkpoint("checkpoints/vggish-10086976.pth", "https://github.com/harritaylor/torchvggish/releases"),
            Checkpoint(
                "checkpoints/vggish_pca_params-970ea276.pth", "https://github.com/harritaylor/torchvggish/releases"
            ),
        ),
    ),
    "clap-laion-music": Outside(
        {"model_name": "clap", "submodel_name": "music_audioset", "sample_rate": 48_000},
        512,
        (Checkpoint("music_audioset_epoch_15_esc_90.14.pt", "https://huggingface.co/lukewys/laion_clap"),),
    ),
    "encodec": Outside(
        {"model_name": "encodec", "sample_rate": 24_000},
        128,
        (Checkpoint("checkpoints/encodec_24khz-d7cc33bc.th", "https://dl.fbaipublicfiles.com/encodec/v0"),),
    ),
    "pann": Outside(
        {"model_name": "pann", "sample_rate": 16_000},
        2048,
        (Checkpoint("Cnn14_16k_mAP%3D0.438.pth", "https://zenodo.org/record/3987831"),),
    ),
    "passt": Outside(
        {"arch": "passt_s_swa_p16_128_ap476", "pretrained": False},
        768,
        (
            Checkpoint(
                "passt-s-f128-p16-s10-ap.476-swa.pt",
                "https://github.com/kkoutini/PaSST/releases/download/v0.0.1-audioset",
            ),
        ),
    ),
}
# fadtk's statistics of FMA-Pop (Gui et al. 2023), by what it calls these embedders.
FMA_POP = {
    "cdpam": "cdpam-acoustic",
    "vggish": "vggish",
    "clap-laion-music": "clap-laion-music",
    "encodec": "encodec-emb",
}


def load(name: str, downloads: Path | str, checkpoints: Path | str, device: torch.device) -> Embedder:
    """The embedder of this name, on `device`.

    Where `HF_HUB_OFFLINE` is set to 1 (runtime.offline), a missing checkpoint is an error; else it is downloaded.

    Args:
        name: one of `EMBEDDERS`.
        downloads: folder that keeps what package archives gave.
        checkpoints: folder of the checkpoints that no package has, relative to the repository unless absolute.
        device: where it runs.

    Raises:
        JobError: a checkpoint is missing, or what was loaded is of no use; the message says how to get it.
    """
    return choice("EMBEDDERS", name)(name, downloads, provenance.ROOT / checkpoints, device)


def _cdpam(name: str, downloads: Path | str, _: Path, device: torch.device) -> Embedder:
    network = cdpam.load(fetch.cdpam_checkpoint(downloads)).to(device)
    return Embedder(name, cdpam.SAMPLE_RATE, network.embed, _identity(name, fetch.CDPAM, device), cdpam.resample)


def _musicnn(name: str, downloads: Path | str, _: Path, device: torch.device) -> Embedder:
    tagger = musicnn.load(name.removeprefix("musicnn-"), fetch.musicnn_folder(downloads)).to(device)
    return Embedder(
        name,
        musicnn.SAMPLE_RATE,
        lambda waveforms: tagger.embed(waveforms).penultimate,
        _identity(name, fetch.MUSICNN, device),
        tags=tagger.tags,
    )


def fma_pop(name: str, downloads: Path | str) -> Gaussian:
    """Mean and covariance of FMA-Pop's embeddings (Gui et al. 2023), for the names in `FMA_POP`."""
    with np.load(fetch.fadtk_folder(downloads) / "stats" / "fma_pop.npz", allow_pickle=False) as arrays:
        return Gaussian.of(*(arrays[f"{FMA_POP[name]}.{part}"] for part in ("mu", "cov")))


def _outside(name: str, _: Path | str, folder: Path, device: torch.device) -> Embedder:
    found = OUTSIDE[name]
    missing = [checkpoint for checkpoint in found.checkpoints if not (folder / checkpoint.path).exists()]
    if missing and os.environ.get("HF_HUB_OFFLINE") == "1":
        first = missing[0]
        raise JobError(
            f"evaluation.embedders asks for {name}, but {folder} has no {first.path}: get it from {first.source} and "
            "put it there, name another folder as runtime.checkpoints, or set runtime.offline to false to download it"
        )
    if name == "passt":
        return _passt(folder, missing, device)
    # Not above: with no network and HF_HUB_OFFLINE unset, its questions to a hub take minutes to fail.
    from frechet_audio_distance import FrechetAudioDistance

    scorer = FrechetAudioDistance(ckpt_dir=str(folder), **found.options)
    scorer.device = device
    scorer.model.to(device)
    text = None
    if name == "clap-laion-music":
        # Without its files, transformers hands out a tokenizer of five tokens and says nothing.
        if len(scorer.model.tokenize) != ROBERTA_TOKENS:
            raise JobError(
                f"laion-clap found no tokenizer of roberta-base ({len(scorer.model.tokenize)} tokens, not "
                f"{ROBERTA_TOKENS}): put its files into the hub's cache (HF_HOME), or set runtime.offline to false"
            )
        text = _text(scorer.model)
    rate = found.options["sample_rate"]

    @torch.inference_mode()
    def embed(waveforms: Tensor) -> Tensor:
        """Clip by clip, as the package does, but EnCodec's encoder, which is faster on a few at once."""
        if name == "encodec":
            few = waveforms[:, None].split(ENCODEC_AT_ONCE)
            answers = torch.cat([scorer.model.encoder(clips) for clips in few]).transpose(1, 2)
        else:
            # The package prints what goes wrong and returns what it has.
            clips = [scorer.get_embeddings([waveform], rate) for waveform in waveforms.cpu().numpy()]
            answers = torch.stack([torch.from_numpy(clip.reshape(-1, found.dimension)) for clip in clips])
        return answers

    digests = [provenance.file_digest(folder / checkpoint.path) for checkpoint in found.checkpoints]
    return Embedder(name, rate, embed, _identity(name, digests, device), text=text)


def _passt(folder: Path, missing: list[Checkpoint], device: torch.device) -> Embedder:
    """PaSST (Koutini et al. 2022), trained on AudioSet: MusicGen's KL compares its tags. A piece of 10 s a vector."""
    found = OUTSIDE["passt"]
    (checkpoint,) = found.checkpoints
    for each in missing:
        folder.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(f"{each.source}/{each.path}", str(folder / each.path), progress=False)
    with redirect_stdout(io.StringIO()):  # the package prints the whole network
        from hear21passt.models import passt
        from hear21passt.models.preprocess import AugmentMelSTFT

        network, mel = passt.get_model(**found.options), AugmentMelSTFT(**PASST_MEL)
    passt.first_RUN = False  # nor the shape of all that passes
    try:
        state = torch.load(folder / checkpoint.path, map_location="cpu", weights_only=True)
        network.load_state_dict(passt.checkpoint_filter_fn(state, network))
    except (RuntimeError, KeyError, pickle.UnpicklingError) as error:
        said = str(error).splitlines()[0]
        raise JobError(f"{folder / checkpoint.path} is no checkpoint of {found.options['arch']}: {said}") from None
    network, mel = network.to(device).eval(), mel.to(device).eval()

    @torch.inference_mode()
    def embed(waveforms: Tensor) -> Tensor:
        pieces = list(waveforms.split(PASST_SECONDS * mel.sr, dim=1))
        if len(pieces) > 1 and pieces[-1].shape[1] < PASST_LEAST * mel.sr:
            pieces.pop()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Input image size")  # of pieces that are not 9.98 s
            return torch.stack([network(mel(piece)[:, None])[1] for piece in pieces], dim=1)

    digest = provenance.file_digest(folder / checkpoint.path)
    tags = torch.inference_mode()(network.head)
    return Embedder("passt", mel.sr, embed, _identity("passt", digest, device), tags=tags)


def _text(clap: torch.nn.Module) -> Callable[[list[str]], Tensor]:
    @torch.inference_mode()
    def embed(texts: list[str]) -> Tensor:
        # laion-clap takes the only row of a batch of one for the batch.
        padded = texts if len(texts) > 1 else [*texts, ""]
        return clap.get_text_embedding(padded, use_tensor=True)[: len(texts)].cpu()

    return embed


def _identity(name: str, weights: Any, device: torch.device) -> str:
    return provenance.digest(
        [name, weights, provenance.source_digest("pipeline.evaluation.embedders"), torch.__version__, device.type]
    )


# How each is loaded, given its name, the folder of downloads, that of checkpoints, and the device.
EMBEDDERS: dict[str, Callable[[str, Path | str, Path, torch.device], Embedder]] = {
    "musicnn-mtt": _musicnn,
    "musicnn-msd": _musicnn,
    "cdpam": _cdpam,
    "vggish": _outside,
    "clap-laion-music": _outside,
    "encodec": _outside,
    "pann": _outside,
    "passt": _outside,
}
