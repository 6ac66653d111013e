"""The report is one file that holds everything and trusts no name."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from rlrr.errors import RLRRError
from rlrr.report.page import Picture, Table, write_report


@pytest.fixture
def png(tmp_path: Path) -> Path:
    path = tmp_path / "picture.png"
    Image.new("RGB", (300, 100), "white").save(path, dpi=(150, 150))
    return path


def report(folder: Path, **parts: object) -> str:
    values = {"title": "T", "summary": "S", "tables": [], "pictures": [], **parts}
    write_report(folder / "report.html", **values)  # type: ignore[arg-type]
    return (folder / "report.html").read_text(encoding="utf-8")


def full(folder: Path, png: Path) -> str:
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
        pictures=[Picture(png, "Rows are true classes.", "A matrix."), Picture(png, "Second.", "Another.")],
        facts={"Seed": "0"},
        commands=["rlrr train", "rlrr evaluate"],
    )


def test_every_picture_is_inside_with_its_caption_and_its_words(tmp_path: Path, png: Path) -> None:
    html = full(tmp_path, png)
    embedded = re.findall(r'src="data:image/png;base64,([^"]+)" alt="([^"]+)"', html)
    assert [alt for _, alt in embedded] == ["A matrix.", "Another."]
    assert all(base64.b64decode(content) == png.read_bytes() for content, _ in embedded)
    assert "<figcaption>Rows are true classes.</figcaption>" in html
    assert "width: 192px" in html  # 300 pixels at 150 dpi are two inches


def test_of_the_pictures_for_several_media_the_first_that_fits_is_shown_and_the_last_to_all_others(
    tmp_path: Path,
) -> None:
    files = {}
    for media, width in (("screen and (dark)", 50), ("screen", 60), ("", 300)):
        Image.new("RGB", (width, 10)).save(file := io.BytesIO(), "PNG", dpi=(150, 150))
        files[media] = file.getvalue()
    html = report(tmp_path, pictures=[Picture(files, "How to read it.", "In words.", "A <title>")])
    images = re.findall(r'<img src="data:image/png;base64,(.*?)" alt="In words\." class="drawn for-(.)" .*192px', html)
    assert [base64.b64decode(content) for content, _ in images] == list(files.values())
    assert [place for _, place in images] == ["1", "2", "3"]
    rules = re.findall(r"^(@media .*\) \{ |@media screen \{ |)\.drawn:not\(\.for-(.)\)", html, re.M)
    assert rules == [("", "3"), ("@media screen { ", "2"), ("@media screen and (dark) { ", "1")]  # the last rule holds
    assert "<h3>A &lt;title&gt;</h3>" in html


def test_the_report_asks_the_network_for_nothing(tmp_path: Path, png: Path) -> None:
    html = full(tmp_path, png)
    assert not re.search(r"https?://|<script|@import|url\(", html)
    assert all(address.startswith("data:") for address in re.findall(r'(?:src|href)="([^"]*)"', html))


def test_a_table_has_a_caption_and_headings_and_sets_numbers_flush_right(tmp_path: Path, png: Path) -> None:
    html = full(tmp_path, png)
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


def test_facts_and_commands_are_listed(tmp_path: Path, png: Path) -> None:
    html = full(tmp_path, png)
    assert "<dt>Seed</dt>\n<dd>0</dd>" in html
    assert "<code>rlrr train\nrlrr evaluate</code>" in html


def test_what_is_not_given_has_no_heading(tmp_path: Path) -> None:
    assert "<h2>" not in report(tmp_path)


def test_no_name_becomes_markup(tmp_path: Path, png: Path) -> None:
    evil = '"><script>alert(1)</script>{{ 1 }}'
    html = report(
        tmp_path,
        title=evil,
        summary=evil,
        tables=[Table(evil, [evil], [[evil]], note=evil)],
        pictures=[Picture(png, evil, evil)],
        facts={evil: evil},
        commands=[evil],
    )
    assert "<script" not in html
    assert html.count("&lt;script&gt;") == 13


@pytest.mark.parametrize("name", ["猫 🐶 العربية", "\udcff"])
def test_any_name_can_be_written(tmp_path: Path, name: str) -> None:
    assert name.encode("utf-8", "replace").decode() in report(tmp_path, facts={"Class": name})


def test_every_element_is_closed(tmp_path: Path, png: Path) -> None:
    class Balance(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.open: list[str] = []

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            if tag not in ("meta", "link", "img"):
                self.open.append(tag)

        def handle_endtag(self, tag: str) -> None:
            assert self.open.pop() == tag

    balance = Balance()
    balance.feed(full(tmp_path, png))
    assert not balance.open


@pytest.mark.parametrize(("content", "reason"), [(None, "No such file"), (b"GIF89a", "no PNG")])
def test_a_picture_that_cannot_be_read_is_named_and_no_report_is_left(
    tmp_path: Path, content: bytes | None, reason: str
) -> None:
    path = tmp_path / "curves.png"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(RLRRError, match=rf"curves\.png.*{reason}"):
        report(tmp_path, pictures=[Picture(path, "c", "a")])
    assert not (tmp_path / "report.html").exists()
