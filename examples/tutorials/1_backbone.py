"""A backbone: sequences that fold into it, under hard constraints, aligned to stability, to FASTA.

Run python examples/tutorials/1_backbone.py; it takes about a minute, and with --quick draws a few.
The backbone is a SUMO-like domain (PDB entry 3A4R). Any PDB, mmCIF or BinaryCIF file will do.
"""

import sys
from pathlib import Path

import seqalign as sa

quick = "--quick" in sys.argv
structure = Path(sa.__file__).parent / "data" / "3a4r.pdb"

# The prior is inverse folding: mpnn-mini reveals one letter per step, given the backbone. Residues
# are named as the authors of the structure named them. Every constraint is hard: no design breaks
# one, and what cannot be met is refused here, before anything runs.
model = sa.load_model(
    "mpnn-mini",
    structure=structure,
    design="A339-412",
    fix="A339-341, A412",  # the ends stay
    omit="C",  # no cysteine
    max_mutations=12,  # against the sequence of the structure
    temperature=0.5,  # 0.1 by default: among few mutations so cold a prior has one best answer
    max_homopolymer=3,  # no letter more than three times in a row
    forbid=["N[^P][ST]"],  # no glycosylation site
    net_charge={"min": -8, "max": 4},
)
print(f"{model.space.reveals} positions are free, and the wild type is {model.wild_type}")

# The reward predicts the gain in stability in kcal/mol. The judge learned the same from other
# proteins; nothing is aligned to it, so it can tell whether the reward was followed too far.
stability = sa.load_reward("ddg-mini", structure=structure)
judge = sa.load_reward("ddg-pairs", structure=structure)

# The target is p*(x) ∝ p_pre(x) · exp(stability(x) / alpha): a smaller alpha follows the reward
# more and the prior less. TDS tilts every step of the reverse diffusion by the reward's gradient.
result = sa.sample(model, stability, "tds", particles=4 if quick else 64, alpha=0.1, seed=7)
print(result)

# What comes back is weighted: the ten best are the best, the mean is over p*.
best = result.best(10)
judged = judge(best.designs)[:, 0].tolist()
print("\nreward  judge  mutations")
for reward, held, mutations in zip(best.rewards, judged, best.mutations(), strict=True):
    print(f"{reward:6.2f} {held:6.2f}  {mutations}")
print(f"mean reward over the target: {float(result.samples.mean(result.samples.rewards)):.2f}")

if not quick:
    best.to_fasta("runs/1_backbone.fasta")
    result.to_csv("runs/1_backbone.csv")
