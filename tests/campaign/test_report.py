import csv
import json
import math
import random
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from commands import campaign_of

from seqalign.campaign.check import check as prepare
from seqalign.campaign.export import export
from seqalign.campaign.report.families import families
from seqalign.campaign.report.figures import svg
from seqalign.campaign.report.page import render
from seqalign.campaign.report.parts import Run, as_float
from seqalign.campaign.report.plate import filled, plates
from seqalign.campaign.report.profile import most_mutated, profile
from seqalign.campaign.report.readiness import flags
from seqalign.campaign.report.sheet import marked
from seqalign.campaign.report.trace import facing
from seqalign.campaign.report.words import signed
from seqalign.campaign.run import run
from seqalign.campaign.store import RunFolder
from seqalign.campaign.yaml import read
from seqalign.files.logo import heat_map, logo
from seqalign.files.orderable import Orderable, Record
from seqalign.files.plate import wells


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
        assert f'<td role="cell">{row["id"]}</td>' in html


def test_every_headline_has_its_verdict_beside_it(folder):
    html, summary = (folder.path / "report.html").read_text(), folder.summary()
    heads = re.findall(r'<div class="headline">.*?</div>', html, flags=re.S)
    assert len(heads) == len(summary.guides) + 1
    for label, head in zip(summary.guides, heads, strict=False):
        gain = summary.gains[label].over_best_of_n
        assert signed(gain) in head
        assert re.search(r'class="badge (good|bad|open)"', head)


def test_the_page_holds_the_letters_to_order_and_the_table(folder):
    html, rows = (folder.path / "report.html").read_text(), folder.read_csv("designs.csv")
    assert rows
    table = json.loads(re.search(r'id="table">(.*?)</script>', html, flags=re.S)[1])
    assert [dict(zip(table["columns"], row, strict=True)) for row in table["rows"]] == rows
    for row in rows:
        code = re.search(rf'<code id="{row["id"]}-1">(.*?)</code>', html)[1]
        assert re.sub("</?b>", "", code) == row["sequence"]
        assert f'data-copies="{row["id"]}-1"' in html
        bold = "".join(re.findall("<b>(.*?)</b>", code))
        assert len(bold) == int(row["n_mut"])
    assert "innerHTML" not in html


def test_marks_are_the_mutations_and_nothing_else():
    record = Record(("A",), (0, "G", 1, "X", "X", 2), ("1", "2", "3", "", "", "6"))
    assert marked(record, "MGKXXT", "MKT", "MKA") == "MGKXX<b>T</b>"
    assert marked(record, "WGWXXT", "WWT", "MKT") == "<b>W</b>G<b>W</b>XXT"
    assert marked(record, "WGWXXT", "WWT", None) == "WGWXXT"


@pytest.mark.parametrize(
    ("chains", "liabilities", "stop", "look", "know"),
    [
        ({"A": "M" * 60}, "", [], [], []),
        ({"A": "M" * 60}, "unpaired-Cys A (new)", [], ["unpaired-Cys"], []),
        ({"A": "M" * 60}, "unpaired-Cys A; NG A3", [], [], []),
        ({"A": "M" * 60}, "NG A3 (new); NG A9 (new); DG A5", [], [], ["NG"]),
        ({"A": "M" * 60}, "poly-M A1-A60 (new); N-glyc A4 (new)", [], ["poly-M"], ["N-glyc"]),
        ({"A": "MXX" + "M" * 60}, "", ["X"], [], []),
        ({"A": "M" * 12}, "", [], ["short"], []),
        ({"A": "M" * 601}, "", [], ["long"], []),
        ({"A": "M" * 60, "B": "M" * 9 + "X"}, "", ["X"], ["short"], []),
    ],
)
def test_flags_say_what_to_look_at(chains, liabilities, stop, look, know):
    found = list(flags(chains, {"liabilities": liabilities, "new_liabilities": "0"}))
    for level, words in (("stop", stop), ("look", look), ("know", know)):
        assert [f.word for f in found if f.level == level] == words
    if len(chains) > 1:
        assert all("chain B" in f.text for f in found)
    # other alphabets are made in other ways
    assert [f.word for f in flags(chains, {})] == stop


def test_without_a_wild_type_every_liability_is_news():
    (only,) = flags({"A": "M" * 60}, {"liabilities": "NG A3"})
    assert only.text == "NG at A3: may deamidate"


def test_families_are_a_partition_with_a_medoid_each():
    rng = random.Random(4)
    names = [str(i) for i in range(1, 21)]
    for _ in range(20):
        letters = ["".join(rng.choice("AC") for _ in names) for _ in range(rng.randrange(1, 14))]
        found = families(letters, names)
        assert sorted(i for f in found for i in f.members) == list(range(len(letters)))
        assert [f.members[0] for f in found] == sorted(f.members[0] for f in found)
        for f in found:
            own = [sum(hamming(letters[i], letters[j]) for j in f.members) for i in f.members]
            assert own[f.members.index(f.center)] == min(own)
            pairs = len(f.members) * (len(f.members) - 1)
            assert f.apart == pytest.approx(sum(own) / max(pairs, 1))


def test_planted_families_are_found_and_named():
    rng = random.Random(5)
    kinds = ["A" * 20, "A" * 10 + "C" * 10, "W" * 8 + "A" * 12]
    names = [f"r{i}" for i in range(1, 21)]

    def near(kind):
        at = rng.randrange(20)
        return kind[:at] + "K" + kind[at + 1 :]

    letters = [near(kinds[i % 3]) for i in range(15)]
    found = families(letters, names)
    assert [f.members for f in found] == [tuple(range(k, 15, 3)) for k in range(3)]
    assert set(found[1].marks) <= {f"r{i}C" for i in range(11, 21)}
    assert set(found[2].marks) <= {f"r{i}W" for i in range(1, 9)}
    assert len(found[2].marks) == 4
    # no family where there is none
    for _ in range(5):
        letters = ["".join(rng.choice("ACDEFGHIKLMNPQRSTVWY") for _ in names) for _ in range(15)]
        assert len(families(letters, names)) == 1


def hamming(a, b):
    return sum(x != y for x, y in zip(a, b, strict=True))


def test_wells_are_those_of_export(folder, tmp_path):
    rows = folder.read_csv("designs.csv")
    export(folder, tmp_path, plate=96)
    with (tmp_path / "plate-1.csv").open(newline="") as file:
        there = [(row["well"], row["id"]) for row in csv.DictReader(file)]
    own = filled(rows, folder.summary().orderable)
    assert [(w.place, w.design) for w in own] == there


def test_a_plate_is_drawn_well_by_well():
    rows = [{"id": f"d{i}", "total": str(-i)} for i in range(100)]
    assert [w.name for w in filled(rows, None)] == [
        *(f"1 {place}" for place in wells(96)),
        *(f"2 {place}" for place in wells(96)[:4]),
    ]
    pair = Orderable("", (Record(("A",), (0,), ("1",)), Record(("B",), (1,), ("1",))), (), (), "__")
    assert [(w.name, w.design, w.chain) for w in filled(rows[:60], pair)[94:98]] == [
        ("1 H11", "d47", "A"),
        ("1 H12", "d47", "B"),
        ("2 A01", "d48", "A"),
        ("2 A02", "d48", "B"),
    ]
    one, two = plates(rows, None)
    assert "A01: d0, 0.00" in one
    assert "A04: d99, −99.00" in two
    for drawing, n in ((one, 96), (two, 4)):
        circles = [e for e in ET.fromstring(drawing) if e.get("role") == "img"]
        assert len(circles) == n
        depth = [float(e.get("fill-opacity")) for e in circles]
        assert depth == sorted(depth, reverse=True)


def test_turning_a_backbone_keeps_distances_and_its_hand():
    rng = np.random.default_rng(3)
    for _ in range(20):
        points = rng.normal(size=(rng.integers(4, 30), 3)) * (5, 3, 1)
        turned = facing(points)

        def gaps(x):
            return np.linalg.norm(x[:, None] - x[None], axis=-1)

        def hand(x):
            return np.linalg.det(x[1:4] - x[0])

        assert gaps(turned) == pytest.approx(gaps(points))
        assert hand(turned) == pytest.approx(hand(points))
        spread = turned.std(0)
        assert spread[0] >= spread[1] >= spread[2]


def test_the_profile_counts_mutations_and_what_goes_with_them(folder):
    run = Run.of(folder, folder.summary())
    wild = run.config["resolved"]["wild_type"]
    chosen = run.letters(run.kept)
    found = profile(run, chosen, [True] * len(wild), wild)
    rows = [r for r in (*run.aligned, *run.plain) if math.isfinite(as_float(r["total"]))]
    some = 0
    for i, residue in enumerate(found):
        assert residue.mutated == pytest.approx(sum(s[i] != wild[i] for s in chosen) / len(chosen))
        groups = {True: [], False: []}
        for row, letters in zip(rows, run.letters(rows), strict=True):
            groups[letters[i] != wild[i]].append(float(row["total"]))
        if min(map(len, groups.values())) < 5:
            assert residue.gain is None
        else:
            some += 1
            means = {k: sum(v) / len(v) for k, v in groups.items()}
            assert residue.gain == pytest.approx(means[True] - means[False])
    assert some
    most = most_mutated(found)
    assert [r.mutated for r in most] == sorted((r.mutated for r in most), reverse=True)


def test_text_of_a_user_is_no_formula_in_a_figure():
    title = "$\\frac$ \" onload='x' <i>"

    def draw(ax):
        ax.set_xlabel("$\\kcal$ <b>&'\"")
        ax.set_title(title, loc="left")

    drawing = svg(draw, name="x")
    root = ET.fromstring(drawing)
    assert root.get("aria-label") == title
    texts = {"".join(e.itertext()) for e in root.iter() if e.tag.endswith("text")}
    assert {title, "$\\kcal$ <b>&'\""} <= texts
    assert "<style" not in drawing


def test_drawings_are_valid_and_have_unique_ids(folder):
    html = (folder.path / "report.html").read_text()
    drawings = re.findall(r"<svg.*?</svg>", html, flags=re.S)
    assert len(drawings) >= 10
    for drawing in drawings:
        ET.fromstring(drawing)
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
