"""The manifest: which clips there are, in which split, with which captions, and their tokens in the same order."""

import hashlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from pipeline.files import read_array, read_json
from pipeline.params import SPLITS as SPLITS


def read(path: Path, columns: list[str] | None = None) -> pd.DataFrame:
    """Reads `manifest.parquet`, one row a clip; ValueError where it is missing."""
    if not path.is_file():
        raise ValueError(f"{path} is missing: run the corpus phase first")
    return pd.read_parquet(path, columns=columns)


def of_split(manifest: pd.DataFrame, split: str) -> pd.DataFrame:
    """The clips of one split, in the manifest's order, numbered from 0.

    Raises:
        ValueError: it has none.
    """
    rows = manifest[manifest["split"] == split].reset_index(drop=True)
    if rows.empty:
        raise ValueError(f"the manifest has no clips of the {split} split: see corpus.split")
    return rows


def track_numbers(rows: pd.DataFrame) -> np.ndarray:
    """The track of each clip as a number from 0, `[n]`."""
    return np.unique(rows["track_id"].to_numpy(str), return_inverse=True)[1]


def evaluation_rows(manifest: pd.DataFrame, clips: int, split: str = "test") -> pd.DataFrame:
    """The `clips` rows of `split` that every system renders and is scored on, in the manifest's order.

    Tracks take turns, so that long ones do not dominate; which clip of a track comes first is a hash of its name, so
    that the same manifest gives the same rows everywhere.

    Raises:
        ValueError: the split has fewer clips.
    """
    rows = manifest[manifest["split"] == split]
    if len(rows) < clips:
        raise ValueError(f"the {split} split has {len(rows)} clips, {clips} are wanted: lower generation.clips")
    return rows[turns(rows) < clips]


def turns(rows: pd.DataFrame) -> pd.Series:
    """Place of each of a split's clips in the order in which `evaluation_rows` takes them, from 0."""
    order = rows["clip_id"].map(lambda clip: hashlib.sha256(str(clip).encode()).hexdigest())
    turn = order.groupby(rows["track_id"]).rank(method="first")
    taken = pd.DataFrame({"turn": turn, "order": order}).sort_values(["turn", "order"]).index
    return pd.Series(range(len(rows)), index=taken).reindex(rows.index)


def caption_columns(manifest: pd.DataFrame) -> list[str]:
    """Names of the columns that hold paraphrases, `caption_0` to `caption_{P-1}`.

    Raises:
        ValueError: there is none.
    """
    columns = [f"caption_{i}" for i in range(len(manifest.columns)) if f"caption_{i}" in manifest]
    if not columns:
        raise ValueError("the manifest has no column caption_0: run the captions stage on it first")
    return columns


class Streams(NamedTuple):
    """What the tokens of one codec are."""

    codebooks: int  # K
    codebook_size: int  # C


def streams(codec: Path) -> Streams:
    """Those of the codec in a folder, as its `model.json` says.

    Raises:
        ValueError: it is missing, or does not say.
    """
    path = codec / "model.json"
    if not path.is_file():
        raise ValueError(f"{path} is missing: run the codec phase first, or give the folder of a codec")
    try:
        configuration = read_json(path)["configuration"]
        return Streams(*(configuration[name] for name in Streams._fields))
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path} does not tell a codec's codebooks: {error}") from None


def read_tokens(folder: Path, split: str, clips: int, codebooks: int, codebook_size: int) -> np.ndarray:
    """Codes `[n, K, T]` of a split's clips, as one codec encodes them, in the manifest's order.

    Raises:
        ValueError: the file is missing, or holds anything but n = `clips` times K = `codebooks` integer codes below
            C = `codebook_size`.
    """
    path = folder / f"{split}.npy"
    if not path.is_file():
        raise ValueError(f"{path} is missing: run the codec phase first, which encodes the corpus")
    codes = np.array(read_array(path))
    if codes.ndim != 3 or 0 in codes.shape or codes.shape[1] != codebooks or not np.issubdtype(codes.dtype, np.integer):
        raise ValueError(
            f"{path} must hold integer codes [n, {codebooks}, T], got {codes.dtype} of shape {codes.shape}: "
            "encode the corpus again"
        )
    if len(codes) != clips:
        raise ValueError(
            f"{path} has {len(codes)} clips, the manifest's {split} split {clips}: encode the corpus again"
        )
    if codes.min() < 0 or codes.max() >= codebook_size:
        raise ValueError(
            f"{path} holds codes {codes.min()} to {codes.max()}, outside 0 to {codebook_size - 1} of the codebook"
        )
    return codes
