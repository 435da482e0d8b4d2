"""The interface of a source of music: tracks with their metadata, each with a function that decodes or renders it.

A source is an entry of a table `SOURCES` in a module of this folder; `corpus.source` selects it by its key.
"""

import unicodedata
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from pipeline import params
from pipeline.audio import Audio


class Track(NamedTuple):
    """What is known about a track before it is decoded or rendered."""

    track_id: str
    group: str
    collection: str
    title: str
    artist: str
    licence: str
    source_file: str
    source_sha256: str
    genre: str
    facts: str  # JSON of the exact facts of a rendered score, or empty
    style: str  # JSON list of words for captions, or empty


class Unusable(ValueError):
    """A track that cannot be decoded or rendered; the corpus leaves it out and says why."""


# Each track with a function that decodes or renders it and returns the audio and the facts learned on the way.
Source = Iterable[tuple[Track, Callable[[], tuple[Audio, dict[str, Any]]]]]
# Opens a source, given parameters, package archive and downloads folder; returns its tracks and their number.
Open = Callable[[params.Corpus, str, str], tuple[Source, int]]


def normalized(title: str) -> str:
    """Letters and digits of a title, ignoring case, accents, spaces and punctuation."""
    return "".join(c for c in unicodedata.normalize("NFKD", title.casefold()) if c.isalnum())
