import random
from pathlib import Path

import numpy as np
import pytest

from pipeline.corpus import sheet_music as scores
from pipeline.corpus.sheet_music import Note, Rendition, Score
from pipeline.job import JobError

ABC = """X: 1
T: {title}
M: 3/4
L: 1/4
K: G
G A B- | B2 c | d3 |]
"""
PIANO = next(i for i in scores.ENSEMBLES["keyboards"] if i.name == "piano")


def tune(path: Path, title: str = "A tune") -> Path:
    path.write_text(ABC.format(title=title))
    return path


def solo(*notes: Note) -> Score:
    return Score((notes,), "4/4", 0, "major")


def plain(tempo: int = 60) -> Rendition:
    return Rendition((PIANO,), tempo, 0, (100,))


def test_notes_ties_metre_and_key_are_read(tmp_path: Path) -> None:
    score = scores.parse(tune(tmp_path / "a.abc"))
    assert score.parts == ((Note(0, 1, 67), Note(1, 1, 69), Note(2, 3, 71), Note(5, 1, 72), Note(6, 3, 74)),)
    assert (score.metre, score.tonic, score.mode) == ("3/4", 7, "major")


def test_a_score_that_names_a_publisher_is_left_out(tmp_path: Path) -> None:
    with pytest.raises(scores.Unusable, match="publisher"):
        scores.parse(tune(tmp_path / "a.abc", "An Edizioni tune"))


def test_a_broken_score_is_left_out_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "a.abc").write_text("X: 1\nK: G\n")
    with pytest.raises(scores.Unusable, match=r"no notes|cannot parse"):
        scores.parse(tmp_path / "a.abc")


def test_the_frequency_that_sounds_is_the_one_written() -> None:
    waveform, rate = scores.render(solo(Note(0, 2, 69)), plain(), seconds=2.0)
    spectrum = np.abs(np.fft.rfft(waveform * np.hanning(len(waveform))))
    frequencies = np.fft.rfftfreq(len(waveform), 1 / rate)
    band = (frequencies > 400) & (frequencies < 480)
    assert frequencies[band][spectrum[band].argmax()] == pytest.approx(440, rel=0.005)
    assert np.abs(waveform).max() == pytest.approx(scores.PEAK)


def test_a_note_sounds_when_the_tempo_says() -> None:
    waveform, rate = scores.render(solo(Note(0, 0.1, 60), Note(4, 1, 60)), plain(tempo=120), seconds=3.0)
    level = np.abs(waveform)
    assert len(waveform) == 3 * rate
    assert level[int(1.9 * rate) : int(1.99 * rate)].max() < 0.2 * level[int(2.0 * rate) : int(2.2 * rate)].max()


def test_the_same_rendition_is_the_same_bytes_and_another_is_not() -> None:
    [path] = scores.works("bach", 1)
    (first, facts), (again, _), (other, _) = (scores.perform(path, index, 10.0) for index in (0, 0, 1))
    assert first.waveform.tobytes() == again.waveform.tobytes()
    assert first.waveform.tobytes() != other.waveform.tobytes()
    assert set(facts) == {"instruments", "key", "metre", "tempo"}


def test_parts_get_instruments_that_reach_their_notes() -> None:
    low, high = (Note(0, 1, 36), Note(1, 1, 40)), (Note(0, 1, 76), Note(1, 1, 79))
    score = Score((high, low), "4/4", 0, "minor")
    for seed in range(50):
        rendition = scores.orchestrate(score, random.Random(seed))
        ensemble = next(e for e in scores.ENSEMBLES.values() if rendition.instruments[0] in e)
        for part, instrument in zip(score.parts, rendition.instruments, strict=True):
            reach = [
                sum(i.low <= note.pitch + rendition.transposition <= i.high for note in part)
                for i in (*ensemble, instrument)
            ]
            assert reach[-1] == max(reach)


def test_facts_follow_the_transposition() -> None:
    facts = plain()._replace(transposition=-2).facts(solo(Note(0, 1, 60)))
    assert facts == {"instruments": ["piano"], "key": "B flat major", "metre": "4/4", "tempo": 60}


def test_works_are_the_same_every_time_and_more_contain_fewer() -> None:
    assert scores.works("bach", 5) == scores.works("bach", 8)[:5]
    assert len(set(scores.works("ryansMammoth", 20))) == 20


def test_movements_of_one_work_are_one_group() -> None:
    movements = [path for path in scores.works("beethoven", 99) if "opus18no1" in str(path)]
    assert len(movements) == 4
    assert {scores.group(path) for path in movements} == {"beethoven/opus18no1"}


@pytest.mark.parametrize("collection", ["palestrina", "essenFolksong", "abba"])
def test_collections_that_may_not_be_used_are_named(collection: str) -> None:
    with pytest.raises(JobError, match=f"names '{collection}'; known are"):
        scores.works(collection, 1)
