"""The page of `rlrr analyze` says what it shows, and is right in a browser: light, dark, on a phone and on paper."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from markupsafe import Markup

from rlrr.report.colours import COLOURS
from rlrr.spectral.analysis import Analysis, measure
from rlrr.spectral.report.page import COLUMNS, UNKNOWN, table, write_page
from rlrr.spectral.tuned import Pair

PHONE, DESK = 390, 1280
GROUND = {
    scheme: "rgb({}, {}, {})".format(*bytes.fromhex(getattr(COLOURS["paper"], scheme)[1:]))
    for scheme in ("light", "dark")
}
PICTURES = """Array.from(document.querySelectorAll("figure svg"), svg => ({
    words: svg.getAttribute("aria-label"), fill: getComputedStyle(svg.querySelector("path")).fill,
    width: svg.getBoundingClientRect().width, room: svg.parentElement.clientWidth}))"""


def run(label: str, amount: float, **parts: Any) -> Analysis:
    """A run of 2 blocks that adds noise to its weights."""
    generator = torch.Generator().manual_seed(len(label))
    rows = []
    for block in range(2):
        for kind in ("q", "fc1"):
            weight, noise = torch.randn(2, 12, 12, generator=generator)
            rows.append(
                measure(Pair(f"blocks.{block}.{kind}", block, kind, weight, weight + amount * noise), directions=3)
            )
    values = {"trained": 1234, "accuracy": 0.912, "accuracy_of": "test"} | parts
    return Analysis(label, "lora", directions=3, **({"rows": rows} | values))


def features(cka: float | None) -> list[dict[str, Any]]:
    return [
        {"layer": i, "name": f"blocks.{i}", "cka": cka, "subspace_angle": 9.0, "relative_change": 0.1} for i in range(2)
    ]


NEAR, FAR = run("near", 0.01), run("far", 0.3)
PROMPTS = run("prompts", 0, rows=[], accuracy=None, trained=None, features=features(0.5))
STILL = run("probe", 0)


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the pictures out, for tests of the words."""
    drawn = lambda figure, prefix, words: Markup('<svg role="img" aria-label="{}"></svg>').format(words)  # noqa: E731
    monkeypatch.setattr("rlrr.report.page.inline_svg", drawn)


def page(folder: Path, *analyses: Analysis) -> str:
    write_page(folder / "report.html", analyses, commands=["rlrr analyze near far"])
    return (folder / "report.html").read_text(encoding="utf-8")


def test_the_table_has_a_line_for_each_run_and_a_dash_for_what_is_not_known() -> None:
    near, prompts = table([NEAR, PROMPTS]).rows
    assert len(near) == len(prompts) == len(COLUMNS)
    assert near[:4] == ["near", "lora", "1,234", "91.2% (test)"]
    assert near[4] == "1.0%"
    assert prompts == ["prompts", "lora", *[UNKNOWN] * 7]


@pytest.mark.usefixtures("undrawn")
def test_the_page_says_who_went_furthest_and_which_view_it_shows(tmp_path: Path) -> None:
    html = page(tmp_path, NEAR, FAR, PROMPTS, STILL)
    summary = re.search(r'<p class="summary">(.*?)</p>', html, re.S)[1]  # type: ignore[index]
    assert "near stayed nearest" in summary
    assert "far, which went furthest, by 30%" in summary
    assert "view of the weights" in summary
    assert "The features of the blocks are compared, too, for prompts" in summary
    assert "Not in the pictures of weights: prompts" in summary
    assert "No weight was changed by probe" in summary
    assert "<code>rlrr analyze near far</code>" in html


@pytest.mark.usefixtures("undrawn")
def test_what_has_no_weights_is_shown_by_its_features_alone(tmp_path: Path) -> None:
    html = page(tmp_path, PROMPTS)
    assert "This is the view of the features" in html
    assert re.findall("<h3>(.*?)</h3>", html) == ["How the features of the blocks changed"]


@pytest.mark.parametrize(
    "analyses", [[STILL], [run("bare", 0, rows=[])], [run("x", 0, rows=[], features=features(None))]]
)
@pytest.mark.usefixtures("undrawn")
def test_runs_with_nothing_to_show_still_have_their_table(tmp_path: Path, analyses: list[Analysis]) -> None:
    assert f'<th scope="row">{analyses[0].label}</th>' in page(tmp_path, *analyses)


@pytest.mark.usefixtures("undrawn")
def test_every_picture_says_how_to_read_it_and_its_words_have_the_numbers_of_each_run(tmp_path: Path) -> None:
    html = page(tmp_path, NEAR, FAR)
    captions = re.findall("<figcaption>(.*?)</figcaption>", html, re.DOTALL)
    words = re.findall('<svg [^>]*aria-label="(.*?)"', html)
    assert len(captions) == len(words) == len(re.findall("<h3>", html)) == 10
    assert all(len(caption) > 80 for caption in captions)
    for text in words:
        assert re.search(r"near: .*\d.*; far: .*\d", text), text


@pytest.mark.usefixtures("undrawn")
def test_a_name_of_a_run_is_no_markup_and_not_escaped_twice(tmp_path: Path) -> None:
    html = page(tmp_path, replace(NEAR, label="<b>'x' & y"))
    assert "<b>" not in html
    assert "&amp;lt;" not in html
    assert "&amp;#39;" not in html


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    if not (executable := next(filter(None, map(shutil.which, names)), None)):
        pytest.skip("There is no Chromium on this machine to open the page in: install Debian's package chromium.")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=executable)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    records = [{"epoch": float(e), "deviation": 0.1 * e, "deviation_0": 0.1 * e, "deviation_1": 0.0} for e in range(3)]
    vectors = {"blocks.0.q": {"scale_out": torch.ones(12, 1), "scale_in": torch.ones(1, 12), "shift": torch.ones(12)}}
    everything = run("all", 0.1, deviations=records, vectors=vectors, features=features(0.9))
    write_page(path, [everything, NEAR, FAR, PROMPTS, STILL], commands=["rlrr analyze " + "a-long-name/" * 20])
    return path


@pytest.fixture
def opened(browser: Any, written: Path) -> Iterator[Any]:
    """Opens the page, and fails if it complains or asks for anything."""
    complaints, contexts = [], []

    def open_page(width: int, scheme: str) -> Any:
        contexts.append(browser.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme))
        tab = contexts[-1].new_page()
        tab.on("console", lambda message: complaints.append(message.text))
        tab.on("pageerror", lambda error: complaints.append(str(error)))
        tab.on("requestfailed", lambda request: complaints.append(f"failed: {request.url[:80]}"))
        address = written.as_uri()
        tab.on("request", lambda asked: asked.url.startswith(("data:", address)) or complaints.append(asked.url))
        tab.goto(address)
        return tab

    yield open_page
    for context in contexts:
        context.close()
    assert not complaints


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [PHONE, DESK])
def test_the_page_fits_its_window_and_its_pictures_have_the_colours_of_the_scheme(
    opened: Any, written: Path, width: int, scheme: str
) -> None:
    assert written.stat().st_size < 2e6
    tab = opened(width, scheme)
    assert tab.evaluate("document.documentElement.scrollWidth") == width
    pictures = tab.evaluate(PICTURES)
    assert len(pictures) == 14
    assert all(re.search(r"\d", picture["words"]) for picture in pictures)
    assert {picture["fill"] for picture in pictures} == {GROUND[scheme]}
    if width == DESK:
        assert all(250 < picture["width"] <= picture["room"] for picture in pictures)
    else:  # letters stay legible, and what does not fit scrolls
        assert all(250 < picture["width"] <= 640 for picture in pictures)
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == GROUND[scheme]
    ids = tab.evaluate("Array.from(document.querySelectorAll('[id]'), element => element.id)")
    assert len(ids) == len(set(ids)) > 0


@pytest.mark.slow
def test_on_paper_all_is_light_whatever_the_screen(opened: Any) -> None:
    tab = opened(PHONE, "dark")
    assert tab.pdf().startswith(b"%PDF")
    tab.emulate_media(media="print", color_scheme="dark")
    assert {picture["fill"] for picture in tab.evaluate(PICTURES)} == {GROUND["light"]}
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == GROUND["light"]
