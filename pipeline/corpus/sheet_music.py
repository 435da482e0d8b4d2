"""Scores of music21's corpus, re-orchestrated at random from a seed and rendered with a sound font.

Nothing is downloaded: music21 includes the scores, pretty_midi the TimGM6mb sound font. The content is known exactly:
instruments, key, metre and tempo are a rendition's `facts`.
"""

import functools
import hashlib
import importlib.util
import itertools
import json
import random
import re
import threading
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipeline import params, provenance
from pipeline.audio import Audio
from pipeline.corpus.source import Open, Source, Track, Unusable
from pipeline.job import JobError

RENDER_RATE = 44100  # Hz
PEAK = 0.9  # of full scale; rendered ensembles reach 1.4
# Channel 9 is for drums. Parts beyond the 15th reuse the first channels, and so their instruments.
CHANNELS = [channel for channel in range(16) if channel != 9]
TAIL = 1.5  # s, lets the last notes fade out


class Collection(NamedTuple):
    """A part of music21's corpus that may be used freely."""

    artist: str
    style: str
    work: str  # pattern of the part of the path that all files of a work share


COLLECTIONS = {
    "bach": Collection("Johann Sebastian Bach", "baroque chorale", r"bwv\d+"),
    "beethoven": Collection("Ludwig van Beethoven", "classical chamber music", r"opus\d+(no\d+)?"),
    "haydn": Collection("Joseph Haydn", "classical chamber music", r"opus\d+no\d+"),
    "monteverdi": Collection("Claudio Monteverdi", "renaissance madrigal", r"madrigal\.\d+\.\d+"),
    "mozart": Collection("Wolfgang Amadeus Mozart", "classical chamber music", r"k\d+"),
    "ryansMammoth": Collection("traditional", "traditional dance tune", r".+"),
}
LICENCE = "public domain (encoding: music21; sound font: TimGM6mb, GPL-2.0)"
# music21 also distributes editions of active publishers, with their permission; these are left out.
PUBLISHER = re.compile(r"edizion|editions?\b|publish|verlag|schirmer|ricordi|renreiter", re.IGNORECASE)


class Instrument(NamedTuple):
    """A General MIDI program and its natural pitch range."""

    name: str
    program: int
    low: int  # MIDI note
    high: int


ENSEMBLES = {
    "strings": (
        Instrument("violin", 40, 55, 100),
        Instrument("viola", 41, 48, 88),
        Instrument("cello", 42, 36, 76),
        Instrument("double bass", 43, 28, 60),
    ),
    "plucked": (
        Instrument("pizzicato strings", 45, 36, 88),
        Instrument("harp", 46, 24, 103),
        Instrument("nylon-string guitar", 24, 40, 83),
        Instrument("koto", 107, 40, 88),
        Instrument("acoustic bass", 32, 28, 60),
    ),
    "woodwinds": (
        Instrument("flute", 73, 60, 96),
        Instrument("oboe", 68, 58, 91),
        Instrument("clarinet", 71, 50, 94),
        Instrument("english horn", 69, 52, 81),
        Instrument("bassoon", 70, 34, 75),
    ),
    "brass": (
        Instrument("trumpet", 56, 52, 82),
        Instrument("french horn", 60, 36, 77),
        Instrument("trombone", 57, 40, 72),
        Instrument("tuba", 58, 28, 58),
    ),
    "saxophones": (
        Instrument("soprano saxophone", 64, 56, 87),
        Instrument("alto saxophone", 65, 49, 80),
        Instrument("tenor saxophone", 66, 44, 75),
        Instrument("baritone saxophone", 67, 36, 69),
    ),
    "keyboards": (
        Instrument("piano", 0, 21, 108),
        Instrument("harpsichord", 6, 29, 89),
        Instrument("church organ", 19, 36, 96),
        Instrument("accordion", 21, 41, 93),
        Instrument("electric piano", 4, 28, 103),
    ),
    "mallets": (
        Instrument("vibraphone", 11, 53, 89),
        Instrument("marimba", 12, 45, 96),
        Instrument("celesta", 8, 60, 108),
    ),
    "voices": (Instrument("choir", 52, 36, 84), Instrument("organ", 16, 36, 96)),
    "electronic": (
        Instrument("synthesizer lead", 81, 48, 96),
        Instrument("synthesizer pad", 89, 36, 96),
        Instrument("synthesizer strings", 50, 36, 96),
        Instrument("synthesizer bass", 38, 24, 60),
    ),
    "band": (
        Instrument("fiddle", 110, 55, 100),
        Instrument("steel-string guitar", 25, 40, 88),
        Instrument("banjo", 105, 48, 88),
        Instrument("electric guitar", 27, 40, 88),
        Instrument("electric bass", 33, 28, 60),
    ),
}
PITCH_CLASSES = ("C", "C sharp", "D", "E flat", "E", "F", "F sharp", "G", "A flat", "A", "B flat", "B")


class Note(NamedTuple):
    """One sounding note; ties are joined."""

    start: float  # quarter notes from the start
    length: float  # quarter notes
    pitch: int  # MIDI note


class Score(NamedTuple):
    """What is kept of a work: its notes, metre and key."""

    parts: tuple[tuple[Note, ...], ...]
    metre: str  # for example 3/4; empty if the score has none
    tonic: int  # pitch class, C = 0
    mode: str


class Rendition(NamedTuple):
    """How one performance of a score differs from the others."""

    instruments: tuple[Instrument, ...]  # one per part
    tempo: int  # quarter notes per minute
    transposition: int  # semitones
    velocities: tuple[int, ...]  # one per part

    def facts(self, score: Score) -> dict[str, Any]:
        """The exact facts of the sound."""
        return {
            "instruments": list(dict.fromkeys(instrument.name for instrument in self.instruments)),
            "key": f"{PITCH_CLASSES[(score.tonic + self.transposition) % 12]} {score.mode}",
            "metre": score.metre,
            "tempo": self.tempo,
        }


def works(collection: str, count: int) -> list[Path]:
    """The first `count` scores of a collection in the order of their names' hashes, or all if it has fewer."""
    if collection not in COLLECTIONS:
        raise JobError(f"corpus.scores.collections names {collection!r}; known are {sorted(COLLECTIONS)}")
    folder = _folder() / collection
    files = [path for path in folder.rglob("*") if path.suffix in (".mxl", ".abc")]
    return sorted(files, key=lambda path: hashlib.sha256(work_name(path).encode()).digest())[:count]


def work_name(path: Path) -> str:
    """Path in the corpus, without suffix."""
    return path.relative_to(_folder()).as_posix().removesuffix(path.suffix)


def group(path: Path) -> str:
    """Name that all movements of one work share."""
    collection, name = work_name(path).split("/", 1)
    match = re.match(COLLECTIONS[collection].work, name)
    return f"{collection}/{match[0] if match else name}"


def perform(path: Path, index: int, seconds: float) -> tuple[Audio, dict[str, Any]]:
    """Rendition `index` of a work and its facts; repeated calls give the same bytes.

    Raises:
        Unusable: the score names a publisher, does not parse, or has no notes.
    """
    # Parsing holds the interpreter's lock, so one thread parses for all renditions of the work.
    with _PARSING:
        score = parse(path)
    rendition = orchestrate(score, random.Random(f"{work_name(path)}/{index}"))
    return render(score, rendition, seconds), rendition.facts(score)


@functools.lru_cache(maxsize=8)
def parse(path: Path) -> Score:
    """Notes, metre and key of a work, by music21."""
    if PUBLISHER.search(_text(path)):
        raise Unusable("names a publisher")
    import music21

    score: Any
    try:
        # Without this, music21 pickles parsed scores into a shared folder and reads them from there later.
        score = music21.converter.parse(path, forceSource=True)
        if any(instrument.transposition for instrument in score.recurse().getElementsByClass("Instrument")):
            score = score.toSoundingPitch()
        key = score.analyze("key")
    # A broken score can raise any error in music21; the score is reported and counted.
    except Exception as error:
        raise Unusable(f"music21 cannot parse it ({type(error).__name__}: {error})") from None
    parts = tuple(notes for part in score.parts if (notes := _notes(part)))
    if not parts:
        raise Unusable("has no notes")
    metres = score.recurse().getElementsByClass("TimeSignature")
    return Score(parts, metres[0].ratioString if metres else "", key.tonic.pitchClass, key.mode)


def orchestrate(score: Score, rng: random.Random) -> Rendition:
    """Draws tempo, transposition and an ensemble, and for each part an instrument of it whose range fits the notes."""
    ensemble = ENSEMBLES[rng.choice(sorted(ENSEMBLES))]
    transposition = rng.randint(-5, 6)
    instruments = []
    for part in score.parts:
        reach = {i: sum(i.low <= note.pitch + transposition <= i.high for note in part) / len(part) for i in ensemble}
        best = max(reach.values())
        instruments.append(rng.choice([instrument for instrument in ensemble if reach[instrument] >= best - 0.02]))
    velocities = tuple(rng.randint(70, 110) for _ in score.parts)
    return Rendition(tuple(instruments), rng.randint(66, 132), transposition, velocities)


def render(score: Score, rendition: Rendition, seconds: float) -> Audio:
    """The first `seconds` of a rendition, mono, peak-normalized."""
    import tinysoundfont

    synth = tinysoundfont.Synth(samplerate=RENDER_RATE)
    font = synth.sfload(str(_sound_font()))
    for channel, instrument in zip(CHANNELS, rendition.instruments, strict=False):
        synth.program_select(channel, font, 0, instrument.program)
    events = _events(score, rendition)
    total = min(round(seconds * RENDER_RATE), events[-1].sample + round(TAIL * RENDER_RATE))
    pieces, position = [], 0
    for event in events:
        if event.sample >= total:
            break
        if event.sample > position:
            pieces.append(np.frombuffer(synth.generate_simple(event.sample - position), np.float32))
            position = event.sample
        if event.velocity:
            synth.noteon(event.channel, event.pitch, event.velocity)
        else:
            synth.noteoff(event.channel, event.pitch)
    pieces.append(np.frombuffer(synth.generate_simple(total - position), np.float32))
    waveform = np.concatenate(pieces).reshape(-1, 2).mean(axis=1)
    return Audio(waveform * (PEAK / max(np.abs(waveform).max(), 1e-9)), RENDER_RATE)


class _Event(NamedTuple):
    sample: int
    velocity: int  # 0 ends the note; sorts before a note that starts at the same time
    channel: int
    pitch: int


def _events(score: Score, rendition: Rendition) -> list[_Event]:
    quarter = 60 / rendition.tempo * RENDER_RATE  # samples
    events = []
    for channel, part, velocity in zip(itertools.cycle(CHANNELS), score.parts, rendition.velocities, strict=False):
        for note in part:
            if 0 <= (pitch := note.pitch + rendition.transposition) < 128:
                events.append(_Event(round(note.start * quarter), velocity, channel, pitch))
                events.append(_Event(round((note.start + note.length) * quarter), 0, channel, pitch))
    return sorted(events)


_PARSING = threading.Lock()


def _notes(part: Any) -> tuple[Note, ...]:
    notes: list[Note] = []
    open_ties: dict[int, int] = {}  # pitch -> index in notes
    for element in part.flatten().notes:
        start, length = float(element.offset), float(element.quarterLength)
        # Chord symbols are only printed above the staff; grace notes have no length.
        if "ChordSymbol" in element.classes or not length:
            continue
        for note in getattr(element, "notes", (element,)):
            if not hasattr(note, "pitch"):
                continue
            pitch, tie = note.pitch.midi, note.tie.type if note.tie else None
            if tie in ("continue", "stop") and pitch in open_ties:
                index = open_ties[pitch]
                notes[index] = notes[index]._replace(length=start + length - notes[index].start)
            else:
                notes.append(Note(start, length, pitch))
                open_ties[pitch] = len(notes) - 1
            if tie in (None, "stop"):
                open_ties.pop(pitch, None)
    return tuple(notes)


def _text(path: Path) -> str:
    if path.suffix != ".mxl":
        return path.read_text(encoding="utf-8", errors="replace")
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if not name.startswith("META-INF")]
        return "".join(archive.read(name).decode("utf-8", "replace") for name in names if name.endswith("xml"))


@functools.cache
def _folder() -> Path:
    # Importing music21 takes seconds, and its folder can be found without.
    return _package("music21") / "corpus"


@functools.cache
def _sound_font() -> Path:
    return _package("pretty_midi") / "TimGM6mb.sf2"


def _package(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise JobError(f"the package {name} is not installed: run `make environment`")
    return Path(spec.origin).parent


def open_scores(corpus: params.Corpus, archive: str, downloads: str) -> tuple[Source, int]:
    """Renditions of music21's scores, and how many there are."""
    chosen = [path for name in corpus.scores.collections for path in works(name, corpus.scores.works)]

    def source() -> Source:
        for path in chosen:
            digest = provenance.file_digest(path)
            for index in range(corpus.scores.renditions):
                yield (
                    _rendition(path, digest, index),
                    functools.partial(perform, path, index, corpus.scores.seconds),
                )

    return source(), len(chosen) * corpus.scores.renditions


def _rendition(path: Path, digest: str, index: int) -> Track:
    name = work_name(path)
    collection, title = name.split("/", 1)
    return Track(
        track_id=f"{name.replace('/', '.')}.{index}",
        group=group(path),
        collection=collection,
        title=title.replace("/", " "),
        artist=COLLECTIONS[collection].artist,
        licence=LICENCE,
        source_file=name + path.suffix,
        source_sha256=digest,
        genre="",
        facts="",
        style=json.dumps([COLLECTIONS[collection].style]),
    )


SOURCES: dict[str, Open] = {"scores": open_scores}
