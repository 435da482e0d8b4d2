"""The page of a made-up study: what it says is what was found, it needs nothing else, and browsers can use it."""

import base64
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pages
import pytest
import soundfile

from pipeline import audio, files
from pipeline import study as place
from pipeline.report import claims, gallery, page, tables
from pipeline.report.results import Results


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    root = tmp_path_factory.mktemp("study")
    return root, pages.write(root)


class Parsed(HTMLParser):
    """The ids, addresses and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        self.ids += [named["id"]] if named.get("id") else []
        self.addresses += [str(value) for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_every_claim_is_told_with_its_verdict_its_rule_and_what_was_found(study: tuple[Path, dict[str, Any]]) -> None:
    root, whole = study
    text = " ".join(" ".join(Parsed((root / place.PAGE).read_text()).words).split())
    for name, claim in claims.assess(Results(root, json.dumps(whole))).items():
        assert f"{name} {claim.says} {claim.verdict.split(':')[0]}" in re.sub(r"\s+", " ", text)
        assert "".join(page.rule(name).replace("`", "").split()) in "".join(text.split())
        for finding in claim.findings:
            assert finding.measure in text
            if finding.low is not None and finding.high is not None:
                assert tables.shown(finding.value, (finding.low, finding.high)) in text


def test_what_decides_a_claim_stands_before_what_is_reported_beside(study: tuple[Path, dict[str, Any]]) -> None:
    tables_of_findings = (study[0] / place.PAGE).read_text().split("What was found")[1:]
    assert tables_of_findings
    for text in tables_of_findings:
        decides = [bool(row) for row in re.findall(r'<tr( class="decides")?><td>', text.split("</table>")[0])]
        assert decides == sorted(decides, reverse=True)


def test_literals_of_captions_are_code(study: tuple[Path, dict[str, Any]]) -> None:
    text = (study[0] / place.PAGE).read_text()
    assert "the table and figure <code>price</code>" in " ".join(text.split())
    assert "``" not in "".join(page.captions(study[1], ["likelihood", "systems", "reconstruction"]).values())


def test_the_page_holds_all_it_shows_but_the_sounds(study: tuple[Path, dict[str, Any]]) -> None:
    root, whole = study
    parsed = Parsed((root / place.PAGE).read_text())
    inner = [address for address in parsed.addresses if not address.startswith("data:")]
    assert inner
    assert {address[1:] for address in inner} <= set(parsed.ids)  # nothing but links to parts of the page
    assert len(parsed.ids) == len(set(parsed.ids))
    pictures = [address for address in parsed.addresses if address.startswith("data:image/svg")]
    drawn = [
        (root / place.FIGURES / f"{name}.svg").read_bytes() for name in Results(root, json.dumps(whole)).study.figures
    ]
    assert [base64.b64decode(address.split(",")[1]) for address in pictures] == drawn
    assert "sourceMappingURL" not in (root / place.PAGE).read_text()


def test_a_page_is_the_same_twice(study: tuple[Path, dict[str, Any]]) -> None:
    root, whole = study
    assert page.page(root, whole) == (root / place.PAGE).read_text()


def test_what_differs_from_the_defaults_is_listed() -> None:
    ours, defaults = {"a": {"b": 1, "c": [1]}, "d": 2}, {"a": {"b": 1, "c": [2], "e": 3}, "d": 2}
    assert page.differences(ours, defaults) == [("a.c", "[1]", "[2]"), ("a.e", "left out", "3")]
    assert page.differences(ours, ours) == []


def test_a_cell_is_rounded_to_its_interval(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("name,x,x low,x high,n\nb,1.23456,1.2,1.3,12\nc,n/a,n/a,n/a,7\n")
    found = page.table(tmp_path / "a.csv")
    assert found["columns"] == ["name", "x", "n"]
    assert [row["t1"] for row in found["rows"]] == ["1.235 [1.200, 1.300]", "n/a"]
    assert [row["c1"] for row in found["rows"]] == [1.23456, "n/a"]
    assert [row["t2"] for row in found["rows"]] == ["12", "7"]
    (tmp_path / "b.csv").write_text("\n")
    assert page.table(tmp_path / "b.csv") == {"columns": [], "rows": []}


@pytest.mark.parametrize(
    ("licence", "expected"),
    [
        ("CC-BY-SA-3.0", True),
        ("CC0-1.0", True),
        ("CC-BY-SA-3.0 or GPL-2.0-or-later", True),
        ("CC-BY-NC-4.0 or GPL-2.0-only", True),
        ("GPL-2.0-only", True),
        ("public domain", True),
        ("public domain (encoding: music21; sound font: TimGM6mb, GPL-2.0)", True),
        ("CC-BY-3.0 (not for sale)", False),
        ("CC-BY-NC-4.0", False),
        ("CC-BY-ND-4.0", False),
        ("all rights reserved", False),
        ("", False),
        ("nan", False),
    ],
)
def test_only_music_that_may_be_passed_on_is_shown(licence: str, expected: bool) -> None:
    assert gallery.free(licence) == expected


def test_the_gallery_has_every_system_of_each_caption(study: tuple[Path, dict[str, Any]]) -> None:
    root, whole = study
    found = files.read_json(root / place.GALLERY / "gallery.json")
    shown = Results(root, json.dumps(whole)).study.shown
    assert (found["free"], found["of"]) == (3, pages.CLIPS)
    assert {clip["credit"]["licence"] for clip in found["clips"]} == {
        pages.LICENCES[0],
        pages.LICENCES[1],
        pages.LICENCES[3],
    }
    for clip in found["clips"]:
        assert [sound["system"] for sound in clip["sounds"]] == [each.system for each in shown]
        for sound in clip["sounds"]:
            info = soundfile.info(root / place.GALLERY / f"{sound['file']}.ogg")
            assert (info.subtype, info.samplerate) == ("OPUS", pages.RATE)
            assert info.duration == pytest.approx(sound["seconds"], abs=0.05)
            assert (root / place.GALLERY / f"{sound['file']}.webp").stat().st_size > 0
            assert 0 < max(sound["peaks"]) <= 1


@pytest.mark.parametrize("rate", [7000, 16_000, 44_100, 96_000])
def test_clips_of_any_rate_keep_their_sound(tmp_path: Path, rate: int) -> None:
    tone = np.sin(2 * np.pi * 440 * np.arange(rate) / rate).astype(np.float32) * 0.01
    written = gallery.compress(audio.Audio(tone, rate), tmp_path / "a.ogg")
    back, back_rate = soundfile.read(tmp_path / "a.ogg")
    assert back_rate == written.rate in gallery.RATES
    spectrum = np.abs(np.fft.rfft(back * np.hanning(len(back))))
    assert spectrum.argmax() * back_rate / len(back) == pytest.approx(440, abs=2)
    assert audio.rms_db(back.astype(np.float32)) > audio.rms_db(tone) + 10  # as loud as all others


@pytest.mark.parametrize(
    "faulty", [np.zeros(pages.RATE, np.int16), np.full(pages.RATE, np.nan, np.float32), np.ones(9, np.float32)]
)
def test_a_faulty_clip_is_shown_as_silence(tmp_path: Path, faulty: np.ndarray) -> None:
    written = gallery.compress(audio.Audio(faulty, pages.RATE), tmp_path / "a.ogg")
    assert len(written.waveform) == len(faulty)
    assert not written.waveform.any()
    gallery.draw_spectrogram(
        gallery.compress(audio.Audio(faulty[:0], pages.RATE), tmp_path / "b.ogg"), tmp_path / "b.webp"
    )
