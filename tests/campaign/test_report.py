import re
import xml.etree.ElementTree as ET

import pytest
from commands import campaign_of

from seqalign.campaign.check import check as prepare
from seqalign.campaign.report.logo import heat_map, logo
from seqalign.campaign.report.page import render
from seqalign.campaign.run import run
from seqalign.campaign.store import RunFolder
from seqalign.campaign.yaml import read


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    where = tmp_path_factory.mktemp("report")
    with campaign_of(where) as path:
        made = RunFolder(where / "run")
        run(prepare(*read(path)), made)
        yield made


def test_the_report_needs_no_network(folder):
    html = (folder.path / "report.html").read_text()
    urls = set(re.findall(r"https?://[^\"'\s<)]+", html))
    assert {u for u in urls if "www.w3.org" not in u} == set()
    assert "<link" not in html
    assert "src=" not in html


def test_the_report_has_every_section(folder):
    html = (folder.path / "report.html").read_text()
    for section in (
        "kept",
        "trade",
        "overoptimization",
        "health",
        "sequence",
        "designs",
        "diversity",
    ):
        assert f'id="{section}"' in html
    for words in ("unguided", "best of 24", "log Ẑ", "How to reproduce", "viewport"):
        assert words in html
    for row in folder.read_csv("designs.csv"):
        assert f"<td>{row['id']}</td>" in html


def test_drawings_are_valid_and_have_unique_ids(folder):
    html = (folder.path / "report.html").read_text()
    drawings = re.findall(r"<svg.*?</svg>", html, flags=re.S)
    assert len(drawings) >= 10
    for svg in drawings:
        ET.fromstring(svg)
    ids = re.findall(r'id="([^"]+)"', html)
    assert len(ids) == len(set(ids))
    for used in re.findall(r'(?:url\(#|href="#)([^)"]+)', html):
        assert used in ids, used


def test_rendering_again_changes_nothing(folder):
    html = (folder.path / "report.html").read_text()
    assert render(folder, folder.summary()) == html


def test_the_logo_names_residues():
    drawing = str(logo(["MKT", "MKA", "MKA"], "MKT", ["7", "8", "9"]))
    assert "<title>9: A 67 %</title>" in drawing
    assert drawing.count("<path") == 4
    ET.fromstring(drawing)


def test_the_heat_map_shows_mutations_only():
    drawing = str(heat_map(["MKA", "MRA"], "MKT", [False, True, True], ["7", "8", "9"]))
    assert "K8R: 50 % of designs" in drawing
    assert "T9A: 100 % of designs" in drawing
    assert "K8K" not in drawing
    assert "7 is fixed" in drawing
