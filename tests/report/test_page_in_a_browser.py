"""The page in a real browser, opened from disk: no error, no request, and everything on it works."""

import csv
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pages
import pytest

from pipeline import study as place

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--autoplay-policy=no-user-gesture-required"]
        yield playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    root = tmp_path_factory.mktemp("study")
    pages.write(root)
    return (root / place.PAGE).resolve().as_uri()


@pytest.fixture
def opened(browser: Any, address: str) -> Iterator[Any]:
    """The page, which must have asked for nothing but files and complained of nothing when the test ends."""
    window = browser.new_page(viewport={"width": 1200, "height": 900}, accept_downloads=True)
    faults: list[str] = []
    window.on("console", lambda message: faults.append(message.text) if message.type in ("error", "warning") else None)
    window.on("pageerror", lambda error: faults.append(str(error)))
    allowed = ("file:", "data:", "blob:")
    window.on("request", lambda asked: None if asked.url.startswith(allowed) else faults.append(asked.url))
    window.on("requestfailed", lambda asked: faults.append(f"{asked.url}: {asked.failure}"))
    window.goto(address)
    yield window
    assert faults == []
    window.close()


def cells(window: Any, table: str, column: int) -> list[str]:
    """What is shown in a column of an open table."""
    return window.locator(f"#table-{table} .tabulator-cell[tabulator-field=c{column}]").all_inner_texts()


def open_table(window: Any, name: str) -> None:
    """Opens a table and waits until its rows are there."""
    window.locator(f"#table-{name} > summary").click()
    window.locator(f"#table-{name} .tabulator-row").first.wait_for()


def test_a_claim_opens_by_keyboard_and_leads_to_its_figure(opened: Any) -> None:
    claim = opened.locator("#C1")
    assert not claim.locator(".inside").is_visible()
    claim.locator("summary").focus()
    opened.keyboard.press("Enter")
    assert claim.locator(".inside").is_visible()
    assert claim.locator("figure img").evaluate("image => image.decode().then(() => image.naturalWidth)") > 0
    claim.get_by_role("link", name="Figure: dependence", exact=True).click()
    assert opened.locator("#figure-dependence img").is_visible()


def test_a_link_to_a_table_opens_it(opened: Any) -> None:
    opened.locator("#C3 summary").click()
    opened.locator("#C3").get_by_role("link", name="Table: scores").click()
    opened.locator("#table-scores .tabulator-row").first.wait_for()


def test_tables_sort_by_number(opened: Any) -> None:
    open_table(opened, "scores")
    heads = opened.locator("#table-scores .tabulator-col-title").all_inner_texts()
    column = heads.index("FAD-MTT")
    opened.locator("#table-scores .tabulator-col-title", has_text="FAD-MTT").first.click()
    numbers = [float(text.split()[0]) for text in cells(opened, "scores", column)]
    assert len(numbers) > 5
    assert numbers == sorted(numbers)
    opened.locator("#table-scores .tabulator-col-title", has_text="FAD-MTT").first.click()
    assert [float(text.split()[0]) for text in cells(opened, "scores", column)] == numbers[::-1]


def test_tables_are_searched(opened: Any) -> None:
    open_table(opened, "scores")
    before = len(cells(opened, "scores", 0))
    opened.locator("#table-scores input").fill("flatten mmd-delay")
    opened.wait_for_function("n => document.querySelectorAll('#table-scores .tabulator-row').length < n", arg=before)
    assert cells(opened, "scores", 0) == ["LM, flatten"]
    opened.locator("#table-scores input").fill("nothing like it")
    opened.get_by_text("No rows match.").wait_for()


def test_a_table_is_saved(opened: Any, tmp_path: Path) -> None:
    open_table(opened, "power")
    with opened.expect_download() as download:
        opened.locator("#table-power .csv").click()
    download.value.save_as(tmp_path / "power.csv")
    rows = list(csv.reader((tmp_path / "power.csv").open(encoding="utf-8-sig")))
    assert rows[0][0] == "claim"
    assert len(rows) > 5


def test_every_table_opens(opened: Any) -> None:
    for summary in opened.locator("details.table > summary").all():
        summary.click()
    opened.wait_for_function(
        "[...document.querySelectorAll('details.table')]"
        ".every(table => table.querySelector('.tabulator-row, .tabulator-placeholder'))"
    )


def test_a_clip_plays_and_another_stops_it(opened: Any) -> None:
    buttons = opened.locator("details.clip[open] .sound button")
    assert buttons.count() > 8
    buttons.nth(0).click()
    opened.wait_for_function("[...players].some(player => player.getCurrentTime() > 0.05)")
    assert buttons.nth(0).inner_text() == "Pause"
    assert opened.evaluate("parseFloat(document.querySelector('.spectrogram i').style.left)") > 0
    buttons.nth(1).click()
    opened.wait_for_function("document.querySelectorAll('details.clip[open] .sound button')[1].textContent === 'Pause'")
    assert buttons.nth(0).inner_text() == "Play"


def test_credits_stand_beside_the_music(opened: Any) -> None:
    credit = opened.locator("details.clip[open] .lead").inner_text()
    assert "A & B, Ann (songs), " in credit
    assert any(licence in credit for licence in pages.LICENCES)
    assert "<b>" in opened.locator("details.clip[open] summary").inner_text()  # a caption is text, whatever is in it


def listen(window: Any) -> None:
    """Plays both sounds of the blind pair, without which neither can be chosen."""
    for index, letter in enumerate("ab"):
        assert window.locator("#choose-a").is_disabled()
        window.locator(f"#play-{letter}").click()
        window.wait_for_function(f"sounds[{index}].currentTime > 0")
        assert window.locator(f"#play-{letter}").inner_text() == f"Pause {letter.upper()}"


def test_blind_answers_are_counted_and_saved(opened: Any, tmp_path: Path) -> None:
    for index in range(6):
        listen(opened)
        real = opened.evaluate("pair.findIndex(sound => sound.kind === 'real')")
        opened.locator("#choose-a" if (index < 4) == (real == 0) else "#choose-b").click()
        told = opened.locator("#answer").inner_text()
        assert told.startswith("Right." if index < 4 else "Wrong.")
    opened.select_option("#question", "alike")
    assert opened.locator("#answer").inner_text() == "Listen to both, then choose."
    for _ in range(10):
        opened.locator("#skip").click()
        systems = opened.evaluate("pair.map(sound => sound.system)")
        assert systems[0] != systems[1]
        assert len({Path(system).parent for system in systems}) == 1
    opened.select_option("#question", "better")
    assert opened.evaluate("pair.every(sound => sound.kind !== 'real') && pair[0].system !== pair[1].system")
    listen(opened)
    opened.locator("#choose-b").click()
    tally = opened.locator("#tally tr", has_text="the recording")
    assert tally.last.inner_text().split("\t")[-2:] == ["4", "6"]
    with opened.expect_download() as download:
        opened.locator("#save").click()
    download.value.save_as(tmp_path / "answers.csv")
    rows = list(csv.DictReader((tmp_path / "answers.csv").open()))
    assert [row["question"] for row in rows] == ["real"] * 6 + ["better"]
    assert sum(row["chosen"] == "the recording" for row in rows) == 4
    opened.reload()
    assert opened.locator("#tally tr").count() > 2  # kept
    opened.locator("#forget").click()  # asks, and is told no
    assert opened.locator("#tally tr").count() > 2
    opened.once("dialog", lambda dialog: dialog.accept())
    opened.locator("#forget").click()
    assert opened.locator("#tally tr").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 800, 1400])
def test_it_fits_every_width_in_both_schemes(opened: Any, scheme: str, width: int) -> None:
    opened.emulate_media(color_scheme=scheme)
    opened.set_viewport_size({"width": width, "height": 800})
    for summary in opened.locator("details.claim > summary").all():
        summary.click()
    open_table(opened, "scores")
    assert opened.evaluate("document.documentElement.scrollWidth <= innerWidth")
    ink, ground = opened.evaluate(
        "[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]"
    )
    light = sum(map(int, ground[4:-1].split(","))) > sum(map(int, ink[4:-1].split(",")))
    assert light == (scheme == "light")


def test_printed_claims_are_open(opened: Any) -> None:
    opened.evaluate("dispatchEvent(new Event('beforeprint'))")
    opened.emulate_media(media="print")
    assert opened.locator("#C8 .inside").is_visible()
    assert not opened.locator("#blind").is_visible()
