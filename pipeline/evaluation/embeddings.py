"""What embedders say of a system's clips: the file that `embed` writes and `score` reads.

It imports neither, so that a changed distance embeds nothing again.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipeline import files

FAULTS = ("silent", "not_finite", "short", "clipped")


class ClipEmbeddings(NamedTuple):
    """One embedder's vectors of the clips that it was given."""

    clip_id: np.ndarray  # [n]
    track_id: np.ndarray  # [n]
    vectors: np.ndarray  # [n, m, D]

    @property
    def patches(self) -> np.ndarray:
        """Vectors `[n m, D]`."""
        return self.vectors.reshape(-1, self.vectors.shape[-1])

    @property
    def patch_tracks(self) -> np.ndarray:
        """Track of each patch, `[n m]`."""
        return np.repeat(self.track_id, self.vectors.shape[1])

    def of_tracks(self, tracks: np.ndarray) -> "ClipEmbeddings":
        """Only the clips of `tracks`."""
        keep = np.isin(self.track_id, tracks)
        return ClipEmbeddings(*(part[keep] for part in self))


class EmbedderOutput(NamedTuple):
    """All that one embedder says of the k clips whose turn is under k."""

    label: str  # its short name in tables
    vectors: np.ndarray  # [k, m, D]
    fma_pop: str = ""  # fadtk's name of the embedder, if fadtk publishes FMA-Pop's statistics in its space
    tags: np.ndarray | None = None  # logits [k, m, C]
    tag_names: np.ndarray | None = None  # [C]
    cosines: np.ndarray | None = None  # [k], of each clip and its caption; NaN where it has none

    def only(self, keep: np.ndarray) -> "EmbedderOutput":
        """Of the clips that `keep`, `[k]` bool, marks."""
        values = {name: getattr(self, name) for name in ("vectors", "tags", "cosines")}
        return self._replace(**{name: value[keep] for name, value in values.items() if value is not None})


class SystemEmbeddings(NamedTuple):
    """A system's clips and what each embedder says of them."""

    clip_id: np.ndarray  # [n]
    track_id: np.ndarray  # [n]
    caption: np.ndarray  # [n], empty where a clip has none
    turn: np.ndarray  # [n], the clip's place when an embedder is given fewer than all
    paired: bool  # clip i was made from the caption of the reference's clip i
    faults: np.ndarray  # [n, 4], bool, as FAULTS
    outputs: dict[str, EmbedderOutput]  # by the embedder's name

    def given(self, name: str) -> np.ndarray:
        """Which clips the embedder `name` was given, `[n]`."""
        return self.turn < len(self.outputs[name].vectors)

    def of(self, name: str) -> ClipEmbeddings:
        """The embedder `name`'s vectors of the clips that it was given."""
        given = self.given(name)
        return ClipEmbeddings(self.clip_id[given], self.track_id[given], self.outputs[name].vectors)

    def spread(self, name: str, values: np.ndarray) -> np.ndarray:
        """Values `[k]` of the clips that the embedder `name` was given, NaN for the others, `[n]`."""
        spread = np.full(len(self.clip_id), np.nan)
        spread[self.given(name)] = values
        return spread

    def first(self, clips: int) -> "SystemEmbeddings":
        """The clips whose turn is under `clips`."""
        keep = self.turn < clips
        outputs = {name: output.only(keep[self.given(name)]) for name, output in self.outputs.items()}
        clip_parts = (self.clip_id[keep], self.track_id[keep], self.caption[keep], self.turn[keep])
        return SystemEmbeddings(*clip_parts, self.paired, self.faults[keep], outputs)


def write(path: Path, embeddings: SystemEmbeddings) -> None:
    """Writes `.npz`: a system's fields by their names, an embedder's as `embedder/field`."""
    fields: dict[str, Any] = embeddings._asdict()
    for name, output in fields.pop("outputs").items():
        fields |= {f"{name}/{field}": value for field, value in output._asdict().items() if value is not None}
    with files.atomic(path) as temporary:
        np.savez(temporary, **fields)


def read(path: Path) -> SystemEmbeddings:
    """Reads what `write` wrote."""
    fields: dict[str, Any] = {}
    outputs: dict[str, dict[str, Any]] = {}
    with np.load(path, allow_pickle=False) as arrays:
        for key in arrays.files:
            name, _, field = key.rpartition("/")
            value = arrays[key]
            of = outputs.setdefault(name, {}) if name else fields
            of[field] = value if value.ndim else value.item()
    return SystemEmbeddings(**fields, outputs={name: EmbedderOutput(**output) for name, output in outputs.items()})
