"""ddg-burial: wild type 0, additive, burial and helix decide, the card has its figures."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import reward_laws
import torch
from backbones import HELIX, backbone

from seqalign.core.process import Designs
from seqalign.core.sequence import PROTEIN
from seqalign.files.numbering import Numbering
from seqalign.files.structure import Structure
from seqalign.rewards import ddg_burial, train_ddg_burial
from seqalign.rewards.ddg_data import Chain, Row

LENGTH = 24
WILD = "".join(PROTEIN.letters[(7 * i) % 20] for i in range(LENGTH))
COORDS = backbone([HELIX] * LENGTH)
mutants = partial(reward_laws.mutants, WILD)


def structure(coords=COORDS, sequence=WILD):
    return Structure(
        name="made-up",
        sequence=sequence,
        coords=coords.float(),
        numbering=Numbering.plain(len(coords)),
        design=torch.ones(len(coords), dtype=torch.bool),
        residue_index=torch.arange(len(coords)),
    )


def test_the_wild_type_scores_zero_and_mutations_add_up():
    reward = ddg_burial.ddg_burial(structure=structure())
    assert float(reward(Designs.of([WILD], PROTEIN))) == 0
    several = mutants(1, 20, 5)
    single = []
    for sequence in several.sequences[0]:
        changed = [WILD[:i] + a + WILD[i + 1 :] for i, a in enumerate(sequence) if a != WILD[i]]
        single.append(float(reward(Designs.of(changed, PROTEIN)).sum()))
    torch.testing.assert_close(reward(several)[0], torch.tensor(single).double())
    torch.testing.assert_close(reward.relaxed(reward_laws.one_hot(several)), reward(several))


def test_proline_in_a_helix_is_a_loss_and_a_letter_without_atoms_is_not_seen():
    reward = ddg_burial.ddg_burial(structure=structure())
    proline = PROTEIN.letters.index("P")
    alanine = PROTEIN.letters.index("A")
    middle = reward.table[8:16]
    assert bool((middle[:, proline] < middle[:, alanine]).all())
    coords = torch.cat([COORDS, torch.full((1, 4, 3), torch.nan)])
    longer = ddg_burial.ddg_burial(structure=structure(coords, WILD + "X"))
    torch.testing.assert_close(longer.table, reward.table)
    bare = COORDS.clone()
    bare[:, (0, 2, 3)] = torch.nan
    with pytest.raises(ValueError, match="ddg-burial"):
        ddg_burial.ddg_burial(structure=replace(structure(bare), require=("CA",)))


def test_what_is_fitted_is_what_the_reward_reads():
    """Rows made of the reward give its coefficients back."""
    reward = ddg_burial.ddg_burial(structure=structure())
    chain = Chain("x", PROTEIN.encode([WILD])[0], COORDS.double(), "1")
    rng = np.random.default_rng(0)
    rows = []
    for i in rng.integers(0, LENGTH, 60).tolist():
        a, b = PROTEIN.letters.index(WILD[i]), int(rng.integers(20))
        rows.append(Row("x", "A", i, a, b, float(reward.table[i, b])))
    x = train_ddg_burial.columns({("x", "A"): chain}, rows)
    np.testing.assert_allclose(train_ddg_burial.fit(x, rows), ddg_burial.COEFFICIENTS, atol=1e-4)


def test_card():
    folder = Path(ddg_burial.__file__).parent
    card = reward_laws.card_of(folder, ddg_burial.ddg_burial(structure=structure()))
    assert all({"what", "split", "seeds", "value", "command"} <= set(f) for f in card["figures"])
    assert all(str(abs(c)) in card["model"] for c in ddg_burial.COEFFICIENTS)
