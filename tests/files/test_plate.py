"""Plates: every chain has one well, designs stay together, controls come last."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from seqalign.files.plate import fill, grid, wells


def test_wells_are_named_row_by_row():
    assert wells(96)[:13] == [f"A{i:02d}" for i in range(1, 13)] + ["B01"]
    for size, last in ((24, "D06"), (96, "H12"), (384, "P24")):
        assert wells(size)[-1] == last
        assert len(set(wells(size))) == size


def test_every_chain_has_one_well_beside_its_design():
    draw = random.Random(0)
    for _ in range(300):
        plate = draw.choice([24, 96, 384])
        sizes = [draw.randint(1, 4) for _ in range(draw.randint(1, 150))]
        designs = [[(d, c) for c in range(n)] for d, n in enumerate(sizes)]
        controls = [("control", c) for c in range(draw.randint(0, 6))]
        plates = fill(designs, plate, controls)
        order = wells(plate)
        flat = [x for some in plates for _, x in some if x[0] != "control"]
        assert flat == [x for design in designs for x in design]
        for some in plates:
            names, what = [w for w, _ in some], [x for _, x in some]
            own = len(what) - len(controls)
            assert names[:own] == order[:own]
            assert names[own:] == order[len(order) - len(controls) :]
            assert what[own:] == controls
            # no design begins on one plate and ends on the next
            assert all((d, sizes[d] - 1) in what for d, c in what[:own] if c == 0)
        # no plate is begun before the one before it is full
        for before, after in pairwise(plates):
            first = designs[after[0][1][0]]
            assert len(before) + len(first) > plate


def test_a_design_that_is_wider_than_a_plate_is_refused():
    with pytest.raises(ValueError, match="takes 3 wells"):
        fill([["a", "b", "c"]], 24, ["w"] * 22)


def test_the_picture_shows_what_is_in_a_well():
    draw = random.Random(1)
    for plate in (24, 96, 384):
        names = {w: f"d{i:04d}" for i, w in enumerate(wells(plate)) if draw.random() < 0.6}
        lines = [line.split() for line in grid(plate, names).splitlines()]
        seen = {
            f"{row[0]}{int(column):02d}": name
            for row in lines[1:]
            for column, name in zip(lines[0], row[1:], strict=True)
        }
        assert {w: n for w, n in seen.items() if n != "."} == names
        assert list(seen) == wells(plate)
