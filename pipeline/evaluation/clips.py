"""A system's clips as every embedder hears them: of one length, at one loudness, and marked where they are faulty."""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from pipeline import audio, files, params
from pipeline.corpus import user_files
from pipeline.manifest import evaluation_rows, turns
from pipeline.params import FLOOR, OUTSIDE, REFERENCE

CLIPPED = 1e-3  # share of samples at full scale from which a clip counts as clipped


class PreparedClip(NamedTuple):
    """A clip as it is scored, and what was wrong with it."""

    sound: audio.Audio  # [seconds x rate], float32
    faults: tuple[bool, bool, bool, bool]  # as FAULTS


class SystemClips(NamedTuple):
    """A system's clips, which are read one by one."""

    names: pd.DataFrame  # clip_id, track_id, caption (empty where there is none), turn: the place when fewer are taken
    paired: bool  # clip i was made from the caption of the reference's clip i
    read: Callable[[int], audio.Audio]  # int16 as the corpus has it, or float32


def prepare_clip(clip: audio.Audio, *, start: int, seconds: float, lufs: float) -> PreparedClip:
    """`seconds` of a clip from sample `start` on, at a loudness of `lufs`.

    What cannot be scored stays in the scores as silence, in whole or where the clip ends too early, and is marked.
    """
    samples, rate = clip
    length = round(seconds * rate)
    kept = samples[start : start + length]
    waveform = audio.to_float(kept) if kept.dtype == np.int16 else kept.astype(np.float32)
    not_finite = not np.isfinite(waveform).all()
    short, clipped = len(kept) < length, audio.clipped(waveform) > CLIPPED
    waveform = np.pad(np.zeros_like(waveform) if not_finite else waveform, (0, length - len(kept)))
    try:
        waveform, silent = audio.loudness_normalize(waveform, rate, lufs), False
    except ValueError:  # mono, finite and long enough it is: only silence is left
        waveform, silent = np.zeros_like(waveform), True
    return PreparedClip(audio.Audio(waveform, rate), (silent, bool(not_finite), short, bool(clipped)))


def prepare_clips(clips: SystemClips, evaluation: params.Evaluation, rows: slice) -> Iterator[PreparedClip]:
    """Each clip in `rows`, cut where its seeded offset says."""
    places = offsets(len(clips.names), evaluation.seed)
    for index in range(*rows.indices(len(clips.names))):
        clip = clips.read(index)
        room = max(len(clip.waveform) - round(evaluation.seconds * clip.rate), 0)
        start = int(places[index] * (room + 1))
        yield prepare_clip(clip, start=start, seconds=evaluation.seconds, lufs=evaluation.loudness_lufs)


def offsets(clips: int, seed: int) -> np.ndarray:
    """Where each clip's kept part begins, as a share of the room that it has, `[clips]`: the same for every system."""
    return np.random.default_rng(seed).random(clips)


def clips_of(
    system: str, source: Path, manifest: pd.DataFrame, clips: int, rate: int, table: Path | None
) -> SystemClips:
    """The clips of a system.

    The reference and the floor are rows of the corpus; a system of the study has one clip for each caption of the test
    split's `manifest.evaluation_rows`, in their order. A system from outside is a folder of audio files, and maybe a
    `table` of them.
    """
    rows = evaluation_rows(manifest, clips, "validation" if system == FLOOR else "test")
    if system.startswith(OUTSIDE):
        return _outside(source, table, rows)
    samples = files.read_array(source)
    if system not in (REFERENCE, FLOOR) and len(samples) != clips:
        raise ValueError(f"{source} has {len(samples)} clips, generation.clips asks for {clips}: make it again")
    places = rows["row"].to_numpy() if system in (REFERENCE, FLOOR) else np.arange(clips)
    return SystemClips(_named(rows), system != FLOOR, lambda index: audio.Audio(samples[places[index]], rate))


def _outside(folder: Path, table: Path | None, rows: pd.DataFrame) -> SystemClips:
    """The audio files of a folder, as many as the reference has at most.

    `table` is a CSV with a column `file`, and `caption`, the text that the clip was made from, or `clip_id`, the clip
    of the test split whose caption that was; with the latter, for all of the reference's clips, clips are paired.
    """
    paths = user_files.audio_files(folder)
    if not paths:
        raise ValueError(f"{folder} has no audio file ({', '.join(user_files.AUDIO_SUFFIXES)}): see evaluation.systems")
    names = pd.DataFrame({"file": [str(path.relative_to(folder)) for path in paths], "caption": ""})
    if table is not None:
        listed = list(user_files.table(table, "file"))
        columns = [name for name in ("file", "caption", "clip_id") if name in listed[0].values]
        if len(columns) == 1:
            raise ValueError(f"{table} needs a column `caption` or `clip_id`; it has {', '.join(listed[0].values)}")
        names = pd.DataFrame([{name: row.text(name) for name in columns} for row in listed]).drop_duplicates("file")
        if missing := sorted(set(names["file"]) - {str(path.relative_to(folder)) for path in paths}):
            raise ValueError(f"{table} names {len(missing)} files that {folder} lacks, {missing[0]!r} for one")
    paired = "clip_id" in names
    if paired:
        if unknown := sorted(set(names["clip_id"]) - set(rows["clip_id"])):
            raise ValueError(f"{table} names {len(unknown)} clips that are not scored, {unknown[0]} for one")
        if lacking := len(set(rows["clip_id"]) - set(names["clip_id"])):
            raise ValueError(f"{table} lacks {lacking} of the {len(rows)} clips that are scored: pairs need them all")
        names = _named(rows).merge(names[["clip_id", "file"]].drop_duplicates("clip_id"), on="clip_id")
    else:
        # In the order of a hash, so that fewer of them are no particular ones; each is a track of its own.
        order = names["file"].map(lambda name: hashlib.sha256(name.encode()).hexdigest()).rank(method="first")
        names = names.assign(clip_id=names["file"], track_id=names["file"], turn=order.astype(int) - 1)
        names = names[names["turn"] < len(rows)].reset_index(drop=True)
    places = [folder / name for name in names["file"]]
    return SystemClips(names, paired, lambda index: _read(places[index]))


def _read(path: Path) -> audio.Audio:
    try:
        return audio.read(path, finite=False)
    except ValueError as error:
        raise ValueError(f"{error}; replace the file, or leave it out of the folder and its table") from None


def _named(rows: pd.DataFrame) -> pd.DataFrame:
    columns = {"clip_id": rows["clip_id"], "track_id": rows["track_id"], "caption": rows["caption_0"]}
    return pd.DataFrame({**columns, "turn": turns(rows)}).reset_index(drop=True)
