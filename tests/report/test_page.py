"""The report is one file that holds everything and trusts no name."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from rlrr.errors import RLRRError
from rlrr.report.colours import COLOURS
from rlrr.report.page import Picture, write_report
from rlrr.report.table import Table


def figure() -> Figure:
    return Figure(figsize=(2, 1))


def report(folder: Path, **parts: object) -> str:
    values = {"title": "T", "summary": "S", "tables": [], "pictures": [], **parts}
    write_report(folder / "report.html", **values)  # type: ignore[arg-type]
    return (folder / "report.html").read_text(encoding="utf-8")


def full(folder: Path) -> str:
    return report(
        folder,
        title="RLRR on digits",
        tables=[
            Table(
                "Accuracy",
                ["Method", "Accuracy", "Protocol"],
                [["RLRR", "97.2 %", "paper"]],
                note="One seed.",
            )
        ],
        pictures=[Picture(figure(), "Rows are true classes.", "A matrix."), Picture(figure(), "Second.", "Another.")],
        facts={"Seed": "0"},
        commands=["rlrr train", "rlrr evaluate"],
    )


def test_every_picture_is_inside_with_its_caption_and_its_words(tmp_path: Path) -> None:
    html = full(tmp_path)
    assert re.findall(r'<svg [^>]*role="img" aria-label="(.*?)"', html) == ["A matrix.", "Another."]
    assert "<figcaption>Rows are true classes.</figcaption>" in html
    assert set(re.findall(r"url\(#(picture-\d)", html)) <= {"picture-1", "picture-2"}


def test_every_colour_has_a_light_and_a_dark_value(tmp_path: Path) -> None:
    light, dark = full(tmp_path).split("@media screen and (prefers-color-scheme: dark)")
    for name, colour in COLOURS.items():
        assert f"--{name}: {colour.light};" in light
        assert f"--{name}: {colour.dark};" in dark


def test_the_report_asks_the_network_for_nothing(tmp_path: Path) -> None:
    html = full(tmp_path)
    assert not re.search(r"https?://|<script|@import|url\((?!#)", html)
    assert all(address.startswith(("data:", "#")) for address in re.findall(r'(?:src|href)="([^"]*)"', html))


def test_a_table_has_a_caption_and_headings_and_sets_numbers_flush_right(tmp_path: Path) -> None:
    html = full(tmp_path)
    for part in (
        "<caption>Accuracy</caption>",
        '<th scope="col">Method</th>',
        '<th scope="col" class="number">Accuracy</th>',
        '<th scope="row">RLRR</th>',
        '<td class="number">97.2 %</td>',
        "<td>paper</td>",
        "One seed.",
    ):
        assert part in html


def test_facts_and_commands_are_listed(tmp_path: Path) -> None:
    html = full(tmp_path)
    assert "<dt>Seed</dt>\n<dd>0</dd>" in html
    assert "<code>rlrr train\nrlrr evaluate</code>" in html


def test_what_is_not_given_has_no_heading(tmp_path: Path) -> None:
    assert "<h2>" not in report(tmp_path)


def test_no_name_becomes_markup(tmp_path: Path) -> None:
    evil = '"><script>alert(1)</script>{{ 1 }}'
    html = report(
        tmp_path,
        title=evil,
        summary=evil,
        tables=[Table(evil, [evil], [[evil]], note=evil)],
        pictures=[Picture(figure(), evil, evil)],
        facts={evil: evil},
        commands=[evil],
    )
    assert "<script" not in html
    assert html.count("&lt;script&gt;") == 14


@pytest.mark.parametrize("name", ["猫 🐶 العربية", "\udcff"])
def test_any_name_can_be_written(tmp_path: Path, name: str) -> None:
    assert name.encode("utf-8", "replace").decode() in report(tmp_path, facts={"Class": name})


def test_every_element_is_closed(tmp_path: Path) -> None:
    class Balance(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.open: list[str] = []

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            if tag not in ("meta", "link"):
                self.open.append(tag)

        def handle_endtag(self, tag: str) -> None:
            assert self.open.pop() == tag

    balance = Balance()
    balance.feed(full(tmp_path))
    assert not balance.open


def test_a_page_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "report.html").mkdir()
    with pytest.raises(RLRRError, match=r"report\.html"):
        report(tmp_path)
