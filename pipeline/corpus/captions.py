"""Writes captions, drops leaked clips, and writes the manifest.

A caption comes with the music, or is written from tags and signal analysis (`describe`), or from the exact facts of a
rendered score (`state`). Written captions never contain a title or a name.
"""

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
import torchaudio
from torch import Tensor

from pipeline import audio, files, job, params, provenance

KEEPS_FIRST = ("test", "validation", "train")  # if two clips are alike, the one in the earlier split stays


class Analysis(NamedTuple):
    """Signal features of each clip."""

    tempo: Tensor  # [B], beats per minute
    pulse: Tensor  # [B], how regularly the onsets repeat at that tempo: 1 for a metronome, near 0 without a pulse
    mode: Tensor  # [B], correlation with the best major key minus that with the best minor key
    centroid: Tensor  # [B], Hz, of the mean spectrum


def analyse(waveforms: Tensor, rate: int) -> Analysis:
    """Tempo, mode and brightness of `waveforms` `[B, T]` at `rate` Hz."""
    return Analysis(*tempo(waveforms, rate), mode(waveforms, rate), centroid(waveforms, rate))


def tempo(waveforms: Tensor, rate: int) -> tuple[Tensor, Tensor]:
    """Tempo in beats per minute and strength of the pulse, `[B]` each: the autocorrelation of onset strength.

    Onset strength is the summed rise of log-mels, and a log-normal prior around 120 (Ellis 2007) settles the octave.
    """
    hop = rate // 100
    mels = torch.log1p(1000 * _mels(waveforms, rate, hop))
    onsets = mels.diff(dim=-1).clamp_min(0).sum(1)
    onsets = onsets - torch.nn.functional.avg_pool1d(onsets[:, None], 101, 1, 50, count_include_pad=False)[:, 0]
    length = onsets.shape[-1]
    spectrum = torch.fft.rfft(onsets, 2 * length).abs().square()
    correlation = torch.fft.irfft(spectrum)[:, :length] / torch.arange(length, 0, -1)
    correlation = correlation / correlation[:, :1].clamp_min(1e-9)
    lags = torch.arange(rate * 60 // (hop * 200), min(rate * 60 // (hop * 40), length - 1))
    candidates = rate * 60 / (hop * lags)
    prior = torch.exp(-0.5 * (torch.log2(candidates / 120) / 0.9).square())
    best = (correlation[:, lags] * prior).argmax(1)
    return candidates[best], correlation[:, lags].gather(1, best[:, None])[:, 0]


# How well each pitch class fits a key, from its tonic up (Krumhansl and Kessler 1982).
MAJOR = (6.35, 2.23, 3.48, 2.33, 4.38, 4.09, 2.52, 5.19, 2.39, 3.66, 2.29, 2.88)
MINOR = (6.33, 2.68, 3.52, 5.38, 2.60, 3.53, 2.54, 4.75, 3.98, 2.69, 3.34, 3.17)


def mode(waveforms: Tensor, rate: int) -> Tensor:
    """Correlation of the mean chroma with the best major key minus that with the best minor key, `[B]`."""
    window = 2 ** round(np.log2(rate / 4))
    spectrum = _magnitudes(waveforms, window, window // 2).mean(-1)
    frequency = torch.arange(window // 2 + 1) * rate / window
    heard = (frequency >= 65) & (frequency <= 2100)  # C2 to C7: below, bins are wider than a semitone
    pitch = (12 * torch.log2(frequency[heard] / 440) + 9).round().long() % 12  # C = 0
    chroma = torch.zeros(len(waveforms), 12).index_add_(1, pitch, spectrum[:, heard].sqrt())
    # Pitch classes cover different numbers of bins; without this, noise would seem to have a key.
    chroma = chroma / torch.bincount(pitch, minlength=12)
    best = []
    for profile in (MAJOR, MINOR):
        keys = torch.stack([torch.tensor(profile).roll(tonic) for tonic in range(12)])
        best.append((_standardised(chroma) @ _standardised(keys).T).amax(1) / 12)
    return best[0] - best[1]


def centroid(waveforms: Tensor, rate: int) -> Tensor:
    """Mean frequency of the mean magnitude spectrum in Hz, `[B]`."""
    spectrum = _magnitudes(waveforms, 1024, 1024).mean(-1)
    frequency = torch.arange(513) * rate / 1024
    return spectrum @ frequency / spectrum.sum(1).clamp_min(1e-9)


class Bands(NamedTuple):
    """Terciles of the training clips: "quiet" and "dark" are relative to this corpus."""

    loudness: np.ndarray  # [2], dB RMS
    centroid: np.ndarray  # [2], Hz


# Wordings of the features in captions; one of each is drawn.
TEMPI = (
    (90, ("slow", "unhurried", "slow-paced")),
    (126, ("mid-tempo", "moderately paced", "steady")),
    (np.inf, ("fast", "lively", "up-tempo")),
)
LOUDNESS = (("quiet", "soft", "gentle"), (), ("loud", "powerful", "intense"))
BRIGHTNESS = (("dark", "mellow", "warm"), (), ("bright", "brilliant", "crisp"))
PULSE = 0.25  # below this, the caption names no tempo
MODE = 0.08  # below this difference of correlations, the caption names neither mode
# Tags that do not read as the name of a style.
WORDING = {
    "00s": "2000s style",
    "60s": "1960s style",
    "70s": "1970s style",
    "80s": "1980s style",
    "90s": "1990s style",
    "female vocalist": "female vocals",
    "female vocalists": "female vocals",
    "male vocalists": "male vocals",
    "rnb": "R&B",
    "catchy": "catchy tunes",
    "sexy": "groove",
    "party": "party music",
    "beautiful": "beautiful melodies",
    "sad": "sad mood",
    "happy": "happy mood",
    "mellow": "mellow mood",
    "chill": "chillout",
}


def describe(
    style: list[str], tags: list[str], heard: dict[str, float], bands: Bands, form: int, generator: np.random.Generator
) -> str:
    """One caption from style words, tags and the features `heard` (the fields of `Analysis`, and `rms_db`).

    `form` picks one of three templates; `generator` draws the wording and the order of names.
    """

    def draw(options: tuple[str, ...]) -> list[str]:
        return [str(generator.choice(options))] if options else []

    speed = next(words for limit, words in TEMPI if heard["tempo"] < limit)
    pace = draw(speed) if heard["pulse"] >= PULSE else []
    sound = draw(LOUDNESS[np.searchsorted(bands.loudness, heard["rms_db"])])
    sound += draw(BRIGHTNESS[np.searchsorted(bands.centroid, heard["centroid"])])
    names = list(dict.fromkeys([*style, *(WORDING.get(tag.lower(), tag.lower()) for tag in tags)]))
    key = "" if abs(heard["mode"]) < MODE else "major" if heard["mode"] > 0 else "minor"
    generator.shuffle(names)
    adjectives, tonality = [*pace, *sound], f"in a {key} key" if key else ""
    beat = "" if pace else "without a clear beat"
    match form % 3:
        case 0:
            kind = f"with elements of {_series(names)}" if names else ""
            return _sentence(_joined(" ", ", ".join(adjectives), "music", kind, tonality, beat))
        case 1:
            return _sentence(_joined(", ", _series(names) if names else "music", *adjectives, tonality, beat))
        case _:
            kind = f"with touches of {_series(names)}" if names else "of music"
            rest = _joined(", ", _series(adjectives) if adjectives else "", tonality, beat)
            return _joined(" ", _sentence(f"a piece {kind}"), _sentence(f"it is {rest}") if rest else "")


def state(style: list[str], facts: dict[str, Any], form: int) -> str:
    """One caption from a rendered score's exact facts (instruments, key, metre, tempo), in one of three forms."""
    kind = style[0] if style else "piece"
    instruments, metre = _series(facts["instruments"]), f" in {facts['metre']} time" if facts["metre"] else ""
    match form % 3:
        case 0:
            return _sentence(
                f"a {kind} for {instruments} in {facts['key']}{metre} at {facts['tempo']} beats per minute"
            )
        case 1:
            return _sentence(f"{instruments} playing a {kind}{metre}, {facts['tempo']} BPM, {facts['key']}")
        case _:
            return (
                _sentence(f"{kind} in {facts['key']}, played by {instruments}")
                + " "
                + _sentence(f"the tempo is {facts['tempo']} beats per minute{metre}")
            )


def named_tags(probabilities: np.ndarray, names: np.ndarray, settings: params.Captions) -> list[str]:
    """At most `max_tags` tags of a clip whose probability is at least `tag_threshold`, the likeliest first."""
    order = np.argsort(-probabilities, kind="stable")[: settings.max_tags]
    return [str(names[i]) for i in order if probabilities[i] >= settings.tag_threshold]


def embedding_directions(embeddings: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Embeddings `[N, D]`, centred on the training clips' mean and scaled to unit length, for the cosines of `leaked`.

    They are centred because all music shares a direction: uncentred, unrelated tracks reach cosines above 0.97.
    """
    centred = embeddings - embeddings[train].mean(0)
    return centred / np.linalg.norm(centred, axis=1, keepdims=True).clip(1e-9)


def leaked(directions: np.ndarray, splits: np.ndarray, max_cosine: float) -> np.ndarray:
    """Clips to drop, `[N]` bool, so that no cosine between clips of different splits exceeds `max_cosine`.

    Test clips always stay; a validation clip stays and the training clip is dropped.
    """
    dropped = np.zeros(len(splits), bool)
    for position, keeper in enumerate(KEEPS_FIRST):
        kept = directions[(splits == keeper) & ~dropped]
        for loser in KEEPS_FIRST[position + 1 :]:
            rows = np.flatnonzero((splits == loser) & ~dropped)
            if len(kept) and len(rows):
                dropped[rows[(directions[rows] @ kept.T).max(1) > max_cosine]] = True
    return dropped


def _mels(waveforms: Tensor, rate: int, hop: int) -> Tensor:
    filters = torchaudio.functional.melscale_fbanks(257, 0.0, rate / 2, 40, rate, norm="slaney", mel_scale="slaney")
    return filters.T @ _magnitudes(waveforms, 512, hop)


def _magnitudes(waveforms: Tensor, window: int, hop: int) -> Tensor:
    return torch.stft(waveforms, window, hop, window=torch.hann_window(window), return_complex=True).abs()


def _standardised(x: Tensor) -> Tensor:
    centred = x - x.mean(1, keepdim=True)
    return centred / centred.square().mean(1, keepdim=True).sqrt().clamp_min(1e-9)


def _series(words: list[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else words[0]


def _joined(by: str, *parts: str) -> str:
    return by.join(part for part in parts if part)


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + "."


def caption(row: pd.Series, tags: list[str], bands: Bands, settings: params.Captions) -> list[str]:
    """The paraphrases of one clip; `row` has `clip_id`, `style`, `facts`, `rms_db` and the fields of `Analysis`.

    Captions that came with the music are used in turn. The wording is drawn from a seed made of the clip's name, so a
    clip's captions do not change when other clips are added or removed.
    """
    clip = int(hashlib.sha256(str(row["clip_id"]).encode()).hexdigest()[:8], 16)
    generator = np.random.default_rng([settings.seed, clip])
    style, first = json.loads(row["style"] or "[]"), int(generator.integers(3))
    forms = range(first, first + settings.paraphrases)
    facts = json.loads(row["facts"] or "{}")
    if "captions" in facts:
        return [facts["captions"][form % len(facts["captions"])] for form in forms]
    if facts:
        return [state(style, facts, form) for form in forms]
    heard = {name: float(row[name]) for name in (*Analysis._fields, "rms_db")}
    return [describe(style, tags, heard, bands, form, generator) for form in forms]


def main() -> None:
    """The manifest: clips without leaked ones, with tags and captions; what was dropped goes to leakage.json."""
    parser = job.parser("Drop clips that resemble those of another split, and write captions.")
    parser.add_argument("--corpus", type=Path, required=True, help="folder with audio.npy, clips.parquet and tags.npz")
    parser.add_argument("--out", type=Path, required=True, help="manifest.parquet; leakage.json goes beside it")
    args = parser.parse_args()
    job.prepare(args)
    corpus = params.section(args.params, "corpus", params.Corpus)
    settings = params.section(args.params, "captions", params.Captions)

    clips = pd.read_parquet(args.corpus / "clips.parquet")
    with np.load(args.corpus / "tags.npz", allow_pickle=False) as arrays:
        probabilities, names, embeddings = (arrays[name] for name in ("msd", "msd_tags", "mtt_penultimate"))
    if len(probabilities) != len(clips):
        raise ValueError(f"tags.npz has {len(probabilities)} clips, clips.parquet {len(clips)}: make the tags again")

    splits = clips["split"].to_numpy()
    directions = embedding_directions(embeddings, splits == "train")
    dropped = leaked(directions, splits, corpus.max_cosine)
    if leaked(directions[~dropped], splits[~dropped], corpus.max_cosine).any():
        raise AssertionError("clips of different splits are still alike")
    clips = clips.assign(**_analysis(files.read_array(args.corpus / "audio.npy"), corpus.sample_rate))
    train = clips[~dropped & (splits == "train")]
    bands = Bands(*(np.quantile(train[name], [1 / 3, 2 / 3]) for name in ("rms_db", "centroid")))

    tags = [named_tags(row, names, settings) for row in probabilities]
    paraphrases = [caption(row, named, bands, settings) for (_, row), named in zip(clips.iterrows(), tags, strict=True)]
    columns = {f"caption_{i}": texts for i, texts in enumerate(zip(*paraphrases, strict=True))}
    manifest = clips.assign(tags=[json.dumps(named) for named in tags], **columns)[~dropped]
    with files.atomic(args.out) as temporary:
        manifest.to_parquet(temporary, index=False)
    files.write_json(
        args.out.with_name("leakage.json"),
        {
            "max_cosine": corpus.max_cosine,
            "dropped": {split: int((dropped & (splits == split)).sum()) for split in KEEPS_FIRST},
            "kept": {split: int((~dropped & (splits == split)).sum()) for split in KEEPS_FIRST},
            "loudness_bands_db": bands.loudness.tolist(),
            "brightness_bands_hz": bands.centroid.tolist(),
            "provenance": provenance.record({"corpus": corpus.model_dump(), "captions": settings.model_dump()}),
        },
    )


def _analysis(clips: np.ndarray, rate: int) -> dict[str, np.ndarray]:
    parts = []
    with job.Progress("captions", len(clips), "clip") as progress:
        for start in range(0, len(clips), 16):
            parts.append(analyse(torch.from_numpy(audio.to_float(clips[start : start + 16])), rate))
            progress.update(min(start + 16, len(clips)))
    return {
        name: torch.cat(values).numpy() for name, values in zip(Analysis._fields, zip(*parts, strict=True), strict=True)
    }


if __name__ == "__main__":
    job.run(main)
