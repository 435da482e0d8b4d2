"""The corpus: clips of music with their splits, credits and facts.

All clips of a group (an artist, or one score) are in one split; so are tracks with the same title and copies of the
same file.
"""

import hashlib
import json
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pandas as pd
import scipy.sparse.csgraph

from pipeline import audio, job, params, provenance
from pipeline.audio import Audio
from pipeline.corpus.source import Source, Track, Unusable, normalized
from pipeline.files import atomic, write_json
from pipeline.job import JobError
from pipeline.manifest import SPLITS

T = TypeVar("T")
R = TypeVar("R")
EMPTY = np.empty((0, 0), np.int16)
# Downloads cut to a clip's length may be a few hundredths of a second short: 0.1 s of 10 s is tolerated.
SHORTEST = 0.99  # of a clip's length; a track at least this long but shorter than a clip is padded with silence


class Cut(NamedTuple):
    """The clips cut from one track, and why other clips were left out."""

    track: Track
    samples: np.ndarray  # [n, T], int16
    starts: np.ndarray  # [n], s
    rms_db: list[float]
    silent: int  # clips below the silence threshold, left out
    dropped: str  # why the track has no clip, or empty
    seconds: float | None = None  # length of the track, if it was decoded


def build(source: Source, total: int, corpus: params.Corpus, out: Path, threads: int = 1) -> dict[str, Any]:
    """Writes audio, clips, credits and summary of `total` tracks to `out` and returns the summary.

    Raises:
        JobError: a split would be empty, or splits share audio or a title.
    """
    length = corpus.clip_samples
    kept: list[Cut] = []
    dropped: list[Cut] = []
    with job.Progress("corpus", total, "track") as progress, rows(out / "audio.npy", length) as append:
        for step, clips in enumerate(_in_order(lambda item: cut(item[0], item[1], corpus), source, threads), start=1):
            append(clips.samples)
            # Samples that are written need not stay in memory.
            (dropped if clips.dropped else kept).append(clips._replace(samples=EMPTY))
            progress.update(step, clips=sum(len(c.starts) for c in kept))
        table = _table(kept, dropped)
        groups = merged(table)
        table["group"] = table["group"].map(groups)
        table["split"] = table["group"].map(assign_splits(table["group"].value_counts().to_dict(), corpus.split))
        check_leakage(table)
    summary = _summary(table, kept, dropped, corpus)
    with atomic(out / "clips.parquet") as temporary:
        table.to_parquet(temporary, index=False)
    _write_credits(table, out)
    write_json(out / "summary.json", summary)
    return summary


def cut(track: Track, load: Callable[[], tuple[Audio, dict[str, Any]]], corpus: params.Corpus) -> Cut:
    """At most `corpus.clips_per_track` clips, spread evenly over the track, without overlap; silent ones left out.

    A track that exceeds full scale is scaled down as a whole: clipping it would add distortion.
    """
    length = corpus.clip_samples
    none = Cut(track, np.empty((0, length), np.int16), np.empty(0), [], 0, "")
    try:
        (waveform, rate), facts = load()
    except Unusable as error:
        print(f"{track.track_id} is left out: {error}", flush=True)
        return none._replace(dropped=str(error))
    none = none._replace(seconds=len(waveform) / rate)
    if rate < corpus.sample_rate:
        return none._replace(dropped=f"its {rate} Hz are under corpus.sample_rate")
    resampled = audio.resample(waveform, rate, corpus.sample_rate)
    if len(resampled) < SHORTEST * length:
        return none._replace(dropped="shorter than a clip")
    samples = audio.to_int16(resampled / np.abs(resampled).max(initial=1))
    samples = np.pad(samples, (0, max(length - len(samples), 0)))
    starts = clip_starts(len(samples), length, corpus.clips_per_track)
    clips = np.stack([samples[start : start + length] for start in starts])
    levels = np.array([audio.rms_db(audio.to_float(clip)) for clip in clips])
    loud = levels >= corpus.silence_db
    return Cut(
        track._replace(facts=json.dumps(facts) if facts else ""),
        clips[loud],
        starts[loud] / corpus.sample_rate,
        levels[loud].tolist(),
        int((~loud).sum()),
        "" if loud.any() else "silent",
        none.seconds,
    )


def clip_starts(samples: int, length: int, most: int) -> np.ndarray:
    """Start samples of at most `most` clips of `length`, evenly spread from the start of the track to its end."""
    count = min(most, samples // length)
    return np.linspace(0, samples - length, count).round().astype(np.int64)


def merged(table: pd.DataFrame) -> dict[str, str]:
    """Merges groups that share a title or an identical file, under the first of their names.

    This keeps covers, remakes and copies in one split. Titles without a letter, such as numbers, are ignored.
    """
    # A graph of groups, titles and files, with an edge from a group to each of its titles and files: connected
    # components are the merged groups.
    numbers, groups = pd.factorize(table["group"], sort=True)
    edges, nodes = [], len(groups)
    for shared in _shared(table).values():
        values, names = pd.factorize(shared.where(shared != ""))  # -1 if empty
        edges.append(np.stack([numbers, nodes + values])[:, values >= 0])
        nodes += len(names)
    rows, columns = np.concatenate(edges, axis=1)
    graph = scipy.sparse.coo_array((np.ones(len(rows), bool), (rows, columns)), (nodes, nodes))
    component = scipy.sparse.csgraph.connected_components(graph, directed=False)[1][: len(groups)]
    _, first, place = np.unique(component, return_index=True, return_inverse=True)
    return dict(zip(groups, groups[first[place]], strict=True))


def _shared(table: pd.DataFrame) -> dict[str, pd.Series]:
    """The values, other than the group, that must not be in two splits."""
    titles = table["title"].map(normalized)
    return {"audio file": table["source_sha256"], "title": titles.where(~titles.str.isnumeric(), "")}


def assign_splits(clips: dict[str, int], split: params.Split) -> dict[str, str]:
    """Split of each group, given its number of clips; groups are assigned in the order of a salted hash.

    A group goes to the emptier of validation and test if it fits there, otherwise to training. It fits if the split
    stays within its share of all clips and the group fills at most half of that share, so that each split has several
    artists. A plain hash of a few dozen groups of very different sizes guarantees neither.

    Raises:
        JobError: validation or test would be empty.
    """
    total = sum(clips.values())
    room = {"test": split.test * total, "validation": split.validation * total}
    filled = dict.fromkeys(room, 0)
    splits = {}
    for group in sorted(clips, key=lambda group: hashlib.sha256(f"{split.salt}/{group}".encode()).digest()):
        size = clips[group]
        fitting = [name for name in room if size <= room[name] / 2 and filled[name] + size <= room[name]]
        splits[group] = min(fitting, key=lambda name: filled[name] / room[name], default="train")
        if fitting:
            filled[splits[group]] += size
    if empty := set(SPLITS) - set(splits.values()):
        raise JobError(
            f"no group of tracks fits into {' and '.join(sorted(empty))} ({len(clips)} groups, {total} clips): take "
            "more tracks, or change corpus.split"
        )
    return splits


def check_leakage(table: pd.DataFrame) -> None:
    """Raises JobError if two splits share a group, an identical audio file or a title."""
    for what, shared in {"group": table["group"], **_shared(table)}.items():
        splits = table[shared != ""].groupby(shared)["split"].nunique()
        if len(leaked := splits[splits > 1]):
            clips = table[shared == leaked.index[0]].drop_duplicates("split")
            files = " and ".join(f"{clip.source_file} ({clip.split})" for clip in clips.itertuples())
            raise JobError(
                f"{len(leaked)} {what}s are in two splits, {leaked.index[0]!r} for one, of {files}: nothing was "
                "written; give these files one artist in the metadata, or remove all but one"
            )


@contextmanager
def rows(path: Path, length: int) -> Iterator[Callable[[np.ndarray], None]]:
    """Yields a function that appends int16 rows `[n, length]` to an `.npy` file; the header is completed at the end."""

    def header(count: int) -> None:
        # numpy leaves room in the header for the first dimension to grow.
        fields = {"descr": np.lib.format.dtype_to_descr(np.dtype(np.int16)), "fortran_order": False}
        np.lib.format.write_array_header_1_0(file, {**fields, "shape": (count, length)})

    count = 0

    def append(samples: np.ndarray) -> None:
        nonlocal count
        samples.tofile(file)
        count += len(samples)

    with atomic(path) as temporary, temporary.open("w+b") as file:
        header(0)
        begin = file.tell()
        yield append
        file.seek(0)
        header(count)
        assert file.tell() == begin


def _in_order(function: Callable[[T], R], items: Iterable[T], threads: int) -> Iterator[R]:
    """`map` on several threads that runs only a little ahead, because tracks are large."""
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[R]] = deque()
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _table(kept: list[Cut], dropped: list[Cut]) -> pd.DataFrame:
    records = [
        {
            "clip_id": f"{clips.track.track_id}-{index:02d}",
            **clips.track._asdict(),
            "start_s": round(float(start), 6),
            "rms_db": round(level, 2),
        }
        for clips in kept
        for index, (start, level) in enumerate(zip(clips.starts, clips.rms_db, strict=True))
    ]
    if not records:
        raise JobError(
            f"no track gave a clip{_why(dropped)}: see corpus.clip_seconds, corpus.silence_db and the parameters of "
            "the source"
        )
    table = pd.DataFrame(records)
    table.insert(1, "row", np.arange(len(table)))
    return table


def _why(dropped: list[Cut], most: int = 5) -> str:
    """The most common reasons with their counts, and the track lengths, for a message; empty if there are no tracks."""
    reasons = Counter(clips.dropped for clips in dropped).most_common()
    told = [f"{count} times {reason!r}" for reason, count in reasons[:most]]
    if others := sum(count for _, count in reasons[most:]):
        told.append(f"{others} times another reason")
    if seconds := [clips.seconds for clips in dropped if clips.seconds is not None]:
        told.append(f"tracks of {min(seconds):.2f} to {max(seconds):.2f} s")
    return f" ({', '.join(told)})" if told else ""


def _summary(table: pd.DataFrame, kept: list[Cut], dropped: list[Cut], corpus: params.Corpus) -> dict[str, Any]:
    def figures(part: pd.DataFrame) -> dict[str, Any]:
        return {
            "clips": len(part),
            "hours": round(len(part) * corpus.clip_seconds / 3600, 3),
            "tracks": part["track_id"].nunique(),
            "groups": part["group"].nunique(),
            "artists": part.loc[part["artist"] != "", "artist"].nunique(),
        }

    return {
        "source": corpus.source,
        "sample_rate": corpus.sample_rate,
        "clip_seconds": corpus.clip_seconds,
        **figures(table),
        "splits": {split: figures(table[table["split"] == split]) for split in SPLITS},
        "collections": {name: figures(part) for name, part in table.groupby("collection")},
        "groups_of_split": {split: sorted(table.loc[table["split"] == split, "group"].unique()) for split in SPLITS},
        "dropped": {
            "tracks": {clips.track.track_id: clips.dropped for clips in dropped},
            "reasons": dict(Counter(clips.dropped for clips in dropped)),
            "silent_clips": sum(clips.silent for clips in kept),
        },
        "provenance": provenance.record(corpus.model_dump(mode="json")),
    }


def _write_credits(table: pd.DataFrame, out: Path) -> None:
    columns = {"title": "title", "artist": "artist", "collection": "collection", "licence": "licence"}
    credits = table.drop_duplicates("track_id")[["track_id", *columns, "source_file"]]
    credits = credits.assign(artist=credits["artist"].replace("", "not named"))
    with atomic(out / "credits.csv") as temporary:
        credits.to_csv(temporary, index=False)
    text = (
        "# Credits\n\nThe music of this corpus, by its authors, under their licences. Clips were cut from it, mixed to "
    )
    text += "mono, resampled and stored as 16-bit samples.\n\n"
    with atomic(out / "credits.md") as temporary:
        temporary.write_text(text + credits.drop(columns="track_id").to_markdown(index=False) + "\n", encoding="utf-8")


def main() -> None:
    """Builds the corpus that `params.yaml` names."""
    parser = job.parser("Fetch or render the music, cut it into clips, split it, and write the credits.")
    parser.add_argument(
        "--archive", default="apt", help="apt, a Debian mirror's base address, or a folder of .deb files"
    )
    parser.add_argument("--downloads", default=".cache/downloads", help="folder that keeps what was downloaded")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    job.prepare(arguments)
    corpus = params.section(arguments.params, "corpus", params.Corpus)
    open_source = params.choice("SOURCES", corpus.source)
    source, total = open_source(corpus, arguments.archive, arguments.downloads)
    summary = build(source, total, corpus, arguments.out, arguments.threads)
    counts = ", ".join(f"{split} {figures['clips']}" for split, figures in summary["splits"].items())
    print(f"{summary['clips']} clips of {summary['tracks']} tracks: {counts}")


if __name__ == "__main__":
    job.run(main)
