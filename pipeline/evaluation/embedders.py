"""Embedders by name: networks that turn music into the vectors between whose distributions distances are taken.

`musicnn-mtt`, `musicnn-msd` and `cdpam` come from packages. The weights of the others are in no package: they lie in a
local folder, or are downloaded to it. `passt` runs through hear21passt; `vggish`, `clap-laion-music`, `encodec` and
`pann` run through frechet-audio-distance and laion-clap, which ask a model hub at import and are imported only then.

Any module of this package adds embedders by a table `EMBEDDERS` of its own: name -> `Loader`.
"""

import io
import os
import pickle
import warnings
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pipeline import audio, fetch, params, provenance
from pipeline.job import JobError
from pipeline.pretrained import cdpam, musicnn

ROBERTA_TOKENS = 50_265
CLAP_SECONDS = 10  # that CLAP hears at once
ENCODEC_AT_ONCE = 4  # clips: more leave the processor's cache
PASST_SECONDS, PASST_LEAST = 10, 0.5  # that PaSST hears at once; a shorter last piece of a clip is left out
# Its spectrogram, as hear21passt makes it for these weights.
PASST_MEL: dict[str, Any] = {"n_mels": 128, "sr": 32_000, "win_length": 800, "hopsize": 320, "n_fft": 1024}
PASST_MEL |= {"freqm": 48, "timem": 192, "htk": False, "fmin": 0.0, "fmax": None, "norm": 1}
PASST_MEL |= {"fmin_aug_range": 10, "fmax_aug_range": 2000}
PASST_NETWORK = "passt_s_swa_p16_128_ap476"


class Embedder(NamedTuple):
    """A network that embeds waveforms; some also tag them, or embed texts. All of it must be deterministic."""

    name: str
    label: str  # short, for the columns of tables: FAD-{label}
    sample_rate: int  # Hz
    device: torch.device
    identity: str  # of what decides its answers, from `identity`: what was embedded under another one is not used
    embed: Callable[[Tensor], Tensor]  # [B, T], full scale 1 -> [B, n, D]
    resample: Callable[[np.ndarray, int, int], np.ndarray] = audio.resample
    tags: Callable[[Tensor], Tensor] | None = None  # [..., D] -> logits [..., C]
    tag_names: tuple[str, ...] = ()  # [C]
    text: Callable[[list[str]], Tensor] | None = None  # texts -> [B, D], to be compared with clips by their cosine
    fma_pop: str = ""  # fadtk's name of it, if fadtk publishes statistics of FMA-Pop (Gui et al. 2023) in its space


# Name, folder of downloads, folder of weights, device -> the embedder, ready to use.
Loader = Callable[[str, Path | str, Path, torch.device], Embedder]


class WeightsFile(NamedTuple):
    """A file that an embedder needs, under the folder of weights, and who published it."""

    path: str
    source: str


TORCHVGGISH = "https://github.com/harritaylor/torchvggish"
WEIGHTS = {
    "vggish": (
        WeightsFile("harritaylor_torchvggish_master/hubconf.py", TORCHVGGISH),
        WeightsFile("checkpoints/vggish-10086976.pth", f"{TORCHVGGISH}/releases"),
        WeightsFile("checkpoints/vggish_pca_params-970ea276.pth", f"{TORCHVGGISH}/releases"),
    ),
    "clap-laion-music": (
        WeightsFile("music_audioset_epoch_15_esc_90.14.pt", "https://huggingface.co/lukewys/laion_clap"),
    ),
    "encodec": (WeightsFile("checkpoints/encodec_24khz-d7cc33bc.th", "https://dl.fbaipublicfiles.com/encodec/v0"),),
    "pann": (WeightsFile("Cnn14_16k_mAP%3D0.438.pth", "https://zenodo.org/record/3987831"),),
    "passt": (
        WeightsFile(
            "passt-s-f128-p16-s10-ap.476-swa.pt",
            "https://github.com/kkoutini/PaSST/releases/download/v0.0.1-audioset",
        ),
    ),
}


def load(name: str, downloads: Path | str, weights: Path | str, device: torch.device) -> Embedder:
    """The embedder of this name, on `device`.

    Where `HF_HUB_OFFLINE` is set to 1 (runtime.offline), missing weights are an error; else they are downloaded.

    Args:
        name: a name in a table `EMBEDDERS`.
        downloads: folder that keeps what package archives gave.
        weights: folder of the weights that no package has, relative to the repository unless absolute.
        device: where it runs.

    Raises:
        JobError: weights are missing, or what was loaded is of no use; the message says how to get it.
    """
    loader: Loader = params.choice("EMBEDDERS", name)
    return loader(name, downloads, provenance.ROOT / weights, device)


def identity(name: str, weights: Any, device: torch.device) -> str:
    """Digest of what decides an embedder's answers: `weights`' digests, the code of its module, torch, the device."""
    code = provenance.source_digest(params.choices("EMBEDDERS")[name])
    return provenance.digest([name, weights, code, torch.__version__, device.type])


def windows(waveforms: Tensor, length: int) -> Tensor:
    """The fewest windows of `length` samples that cover clips `[B, T]`, evenly spaced -> `[B, n, length]`.

    A shorter clip is one window, as it is: `[B, 1, T]`.
    """
    room = max(waveforms.shape[1] - length, 0)
    starts = np.linspace(0, room, 1 - -room // length).round().astype(int)
    return torch.stack([waveforms[:, start : start + length] for start in starts], dim=1)


def _musicnn(name: str, downloads: Path | str, _: Path, device: torch.device) -> Embedder:
    which: Literal["mtt", "msd"] = "mtt" if name == "musicnn-mtt" else "msd"
    tagger = musicnn.load(which, fetch.musicnn_folder(downloads)).to(device)
    return Embedder(
        name,
        which.upper(),
        musicnn.SAMPLE_RATE,
        device,
        identity(name, fetch.MUSICNN, device),
        lambda waveforms: tagger.embed(waveforms).penultimate,
        tags=tagger.tags,
        tag_names=musicnn.TAGS[which],
    )


def _cdpam(name: str, downloads: Path | str, _: Path, device: torch.device) -> Embedder:
    network = cdpam.load(fetch.cdpam_checkpoint(downloads)).to(device)
    return Embedder(
        name,
        "CDPAM",
        cdpam.SAMPLE_RATE,
        device,
        identity(name, fetch.CDPAM, device),
        network.embed,
        resample=cdpam.resample,
        fma_pop="cdpam-acoustic",
    )


def _vggish(name: str, _: Path | str, folder: Path, device: torch.device) -> Embedder:
    network = _package_network(name, folder, device, model_name="vggish", sample_rate=16_000)
    network.device = device

    @torch.inference_mode()
    def embed(waveforms: Tensor) -> Tensor:
        return torch.stack([network(waveform, 16_000) for waveform in waveforms.cpu().numpy()])

    return Embedder(name, "VGGish", 16_000, device, _identity(name, folder, device), embed, fma_pop="vggish")


def _pann(name: str, _: Path | str, folder: Path, device: torch.device) -> Embedder:
    network = _package_network(name, folder, device, model_name="pann", sample_rate=16_000)

    @torch.inference_mode()
    def embed(waveforms: Tensor) -> Tensor:
        return torch.stack([network(waveform[None], None)["embedding"] for waveform in waveforms])

    return Embedder(name, "PANN", 16_000, device, _identity(name, folder, device), embed)


def _encodec(name: str, _: Path | str, folder: Path, device: torch.device) -> Embedder:
    network = _package_network(name, folder, device, model_name="encodec", sample_rate=24_000)

    @torch.inference_mode()
    def embed(waveforms: Tensor) -> Tensor:
        parts = waveforms[:, None].split(ENCODEC_AT_ONCE)
        return torch.cat([network.encoder(part) for part in parts]).transpose(1, 2)

    return Embedder(name, "EnCodec", 24_000, device, _identity(name, folder, device), embed, fma_pop="encodec-emb")


def _clap(name: str, _: Path | str, folder: Path, device: torch.device) -> Embedder:
    """CLAP (Wu et al. 2023), a vector for each window of 10 s; a clip's agreement with a text is that of their mean.

    Differs from laion-clap, which hears an unseeded random 10 s of a longer clip. fadtk takes windows of 10 s too, but
    one each second.
    """
    options: dict[str, Any] = {"model_name": "clap", "submodel_name": "music_audioset", "sample_rate": 48_000}
    network = _package_network(name, folder, device, **options)
    # Without its files, transformers hands out a tokenizer of five tokens and says nothing.
    if len(network.tokenize) != ROBERTA_TOKENS:
        raise JobError(
            f"laion-clap found no tokenizer of roberta-base ({len(network.tokenize)} tokens, not "
            f"{ROBERTA_TOKENS}): put its files into the hub's cache (HF_HOME), or set runtime.offline to false"
        )

    @torch.inference_mode()
    def embed(waveforms: Tensor) -> Tensor:
        pieces = windows(waveforms, CLAP_SECONDS * 48_000).flatten(0, 1)
        vectors = [network.get_audio_embedding_from_data(piece[None], use_tensor=True) for piece in pieces]
        return torch.cat(vectors).unflatten(0, (len(waveforms), -1))

    @torch.inference_mode()
    def text(texts: list[str]) -> Tensor:
        # laion-clap takes the only row of a batch of one for the batch.
        padded = texts if len(texts) > 1 else [*texts, ""]
        return network.get_text_embedding(padded, use_tensor=True)[: len(texts)].cpu()

    return Embedder(
        *(name, "CLAP", 48_000, device, _identity(name, folder, device), embed), text=text, fma_pop="clap-laion-music"
    )


def _passt(name: str, _: Path | str, folder: Path, device: torch.device) -> Embedder:
    """PaSST (Koutini et al. 2022), trained on AudioSet: MusicGen's KL compares its tags. A vector a piece of 10 s."""
    for each in _missing(name, folder):
        folder.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(f"{each.source}/{each.path}", str(folder / each.path), progress=False)
    path = folder / WEIGHTS[name][0].path
    with redirect_stdout(io.StringIO()):  # the package prints the whole network
        from hear21passt.models import passt
        from hear21passt.models.preprocess import AugmentMelSTFT

        network, mel = passt.get_model(PASST_NETWORK, pretrained=False), AugmentMelSTFT(**PASST_MEL)
    passt.first_RUN = False  # nor the shape of all that passes
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        network.load_state_dict(passt.checkpoint_filter_fn(state, network))
    except (RuntimeError, KeyError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0]
        raise JobError(f"{path} does not hold the weights of {PASST_NETWORK}: {reason}") from None
    network, mel = network.to(device).eval(), mel.to(device).eval()  # the mel is augmented, too, where it trains

    @torch.inference_mode()
    def embed(waveforms: Tensor) -> Tensor:
        pieces = list(waveforms.split(PASST_SECONDS * mel.sr, dim=1))
        if len(pieces) > 1 and pieces[-1].shape[1] < PASST_LEAST * mel.sr:
            pieces.pop()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Input image size")  # of pieces that are not 9.98 s
            return torch.stack([network(mel(piece)[:, None])[1] for piece in pieces], dim=1)

    @torch.inference_mode()
    def tags(vectors: Tensor) -> Tensor:
        return network.head(vectors)

    return Embedder(name, "PaSST", mel.sr, device, _identity(name, folder, device), embed, tags=tags)


def _package_network(name: str, folder: Path, device: torch.device, **options: Any) -> Any:
    """The network that frechet-audio-distance loads, given its options; it downloads what is missing."""
    _missing(name, folder)
    # Not above: with no network and HF_HUB_OFFLINE unset, its questions to a hub take minutes to fail.
    from frechet_audio_distance import FrechetAudioDistance

    return FrechetAudioDistance(ckpt_dir=str(folder), **options).model.to(device).eval()


def _missing(name: str, folder: Path) -> list[WeightsFile]:
    """What `folder` lacks of an embedder's weights; JobError where it may not be downloaded."""
    missing = [each for each in WEIGHTS[name] if not (folder / each.path).exists()]
    if missing and os.environ.get("HF_HUB_OFFLINE") == "1":
        path, source = missing[0]
        raise JobError(
            f"evaluation.embedders asks for {name}, but {folder} has no {path}: get it from {source} and "
            "put it there, name another folder as runtime.checkpoints, or set runtime.offline to false to download it"
        )
    return missing


def _identity(name: str, folder: Path, device: torch.device) -> str:
    return identity(name, [provenance.file_digest(folder / each.path) for each in WEIGHTS[name]], device)


EMBEDDERS: dict[str, Loader] = {
    "musicnn-mtt": _musicnn,
    "musicnn-msd": _musicnn,
    "cdpam": _cdpam,
    "vggish": _vggish,
    "clap-laion-music": _clap,
    "encodec": _encodec,
    "pann": _pann,
    "passt": _passt,
}
