"""The contract of a source of music: tracks with what is known of them, each with a function that makes it heard.

A source is an entry of a table `SOURCES` in a module of this folder, under the name that `corpus.source` gives.
"""

import unicodedata
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from pipeline import params
from pipeline.audio import Audio


class Track(NamedTuple):
    """What is known of a piece of audio before it is heard."""

    track_id: str
    group: str
    collection: str
    title: str
    artist: str
    licence: str
    source_file: str
    source_sha256: str
    genre: str
    facts: str  # JSON of what is exactly known of a rendered score, else empty
    style: str  # JSON list of words that fit into a caption, or empty


class Unusable(ValueError):
    """A track that cannot be decoded or rendered; the corpus leaves it out and says why."""


# Each track with a function that decodes or renders it and tells what facts that establishes.
Source = Iterable[tuple[Track, Callable[[], tuple[Audio, dict[str, Any]]]]]
# Opens a source, given its parameters, the archive of packages and the folder of downloads: tracks and their number.
Open = Callable[[params.Corpus, str, str], tuple[Source, int]]


def normalized(title: str) -> str:
    """Letters and digits of a title, without case, accents, spaces and punctuation."""
    return "".join(c for c in unicodedata.normalize("NFKD", title.casefold()) if c.isalnum())
