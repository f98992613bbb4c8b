"""What a run says of its own health: collapses and stalls are found, healthy runs are left alone,
and every setting that a sentence names is one that a campaign can set.
"""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace

import exact
import pytest
import torch
from commands import call, campaign_of, words

from seqalign import registry
from seqalign.campaign.schema import Campaign
from seqalign.campaign.store import RunFolder
from seqalign.campaign.summary import from_json, to_json
from seqalign.core.health import Finding, Health, _findings, examine
from seqalign.core.moves import Redraw, Remask
from seqalign.core.particles import Samples, join
from seqalign.core.potential import Max
from seqalign.core.selection import Resample
from seqalign.core.tempering import Adaptive
from seqalign.methods.beam import Beam
from seqalign.methods.best_of_n import BestOfN
from seqalign.methods.das import DAS
from seqalign.methods.fk_steering import FKSteering
from seqalign.methods.guidance import Guidance
from seqalign.methods.nested_is import NestedIS
from seqalign.methods.smc import PlainSMC
from seqalign.methods.tds import TDS

METHODS = [
    PlainSMC(), DAS(), TDS(), FKSteering(), NestedIS(), BestOfN(), Beam(), Guidance(),
    TDS(move=Redraw()), PlainSMC(move=Remask()), PlainSMC(resample=Resample(ess_below=0.1)),
    FKSteering(potential=Max(), resample=Resample(ess_below=1.0)),
]  # fmt: skip


@pytest.fixture(scope="module")
def bed():
    return exact.Testbed.load(length=12)


def drawn(bed, method, shape=(3, 16)) -> tuple[Samples, Health]:
    samples = join(bed.run(method, shape))
    return samples, examine(samples, method)


def whats(health: Health) -> set[str]:
    return {f.what for f in health.findings}


@pytest.mark.parametrize("method", [PlainSMC(2.0), DAS(2.0), TDS(2.0), Guidance(2.0)])
def test_a_healthy_run_says_so(bed, method):
    _, health = drawn(bed, method, (3, 64))
    assert health.findings == ()
    assert health.sentences == ("The sampler looks healthy.",)


def test_a_collapsed_run_is_called_collapsed_with_what_to_change(bed):
    samples, health = drawn(bed, PlainSMC(0.05))
    assert {"collapsed", "apart"} <= whats(health)
    said = " ".join(health.sentences)
    for setting in ("sampler.particles", "sampler.alpha", "sampler.move", "ess_below (now 0.75)"):
        assert setting in said
    assert max(health.roots) == 1
    assert max(health.different) < 2
    assert health.largest[0] > 0.99
    assert health.spread[0] == pytest.approx(float(samples.log_z.std()))


def test_the_numbers_are_those_of_the_trace(bed):
    samples, health = drawn(bed, TDS(0.5, move=Redraw()))
    for b, row in enumerate(samples.designs.sequences):
        names = list(range(16))
        for step in samples.trace:
            if step.ancestors is not None:
                names = [names[i] for i in step.ancestors[b].tolist()]
        assert health.roots[b] == len(set(names))
        assert health.distinct[b] == len(set(row))
        assert health.different[b] <= health.distinct[b] + 1e-9
        assert health.different[b] >= 16 * health.ess[b] / max(map(row.count, row)) - 1e-9
    assert 0 < health.accepted < 1
    assert health.unknown == 0


def test_a_stalled_schedule_is_found(bed):
    _, health = drawn(bed, DAS(0.05, tempering=Adaptive(ess=0.7, pace=0)), (3, 64))
    assert min(health.lam) < 0.5
    assert "stalled" in whats(health)
    assert "sampler.tempering.ess (now 0.7)" in " ".join(health.sentences)
    # a schedule that waits on purpose has not stalled
    assert "stalled" not in whats(examine(drawn(bed, BestOfN(2.0))[0], BestOfN(2.0)))


def test_islands_are_compared_within_a_target_only(bed):
    samples, _ = drawn(bed, TDS(2.0), (4, 16))
    far = samples.log_z + torch.tensor([0.0, 0.0, 50.0, 50.0])
    health = examine(replace(samples, log_z=far), TDS(2.0), replicates=2)
    assert "apart" not in whats(health)
    assert max(health.spread) < 1.5
    assert "apart" in whats(examine(replace(samples, log_z=far), TDS(2.0)))
    lone = examine(replace(samples, log_z=far), TDS(2.0), replicates=1)
    assert lone.spread == lone.largest == (None,) * 4
    with pytest.raises(ValueError, match="no multiple"):
        examine(samples, TDS(2.0), replicates=3)


def test_pictures_are_told_apart_by_their_ancestors_half_way():
    problem = exact.gaussian()
    tight = FKSteering(1e-6, resample=Resample(ess_below=1.0))
    health = examine(problem.run(tight, (2, 16)), tight)
    assert "collapsed" in whats(health)
    assert max(health.roots) == 1
    loose = PlainSMC(1e6)
    health = examine(problem.run(loose, (2, 16)), loose)
    assert health.findings == ()
    assert min(health.different) == pytest.approx(16)


def test_methods_without_weights_are_told_by_their_designs_alone(bed):
    _, health = drawn(bed, Beam(2.0))
    assert health.roots is health.ess is health.lam is health.spread is health.largest is None
    assert whats(health) == {"copies"}


def test_islands_without_weight_and_unknown_values_are_found(bed):
    samples, _ = drawn(bed, TDS(2.0))
    void = torch.full_like(samples.log_w, -torch.inf)
    nothing = torch.full_like(samples.log_z, -torch.inf)
    blind = tuple(replace(s, value_mean=s.value_mean * torch.nan) for s in samples.trace)
    sick = replace(samples, log_w=void, log_z=nothing, trace=blind)
    health = examine(sick, TDS(2.0))
    assert whats(health) == {"dead", "unknown"}
    assert health.unknown == 1
    assert health.distinct == (0, 0, 0)


def exists(setting: str, method) -> bool:
    """Whether a campaign with this method can set it."""
    section, *rest = setting.split(".")
    if section not in Campaign.model_fields:
        return False
    if section != "sampler" or not rest:
        return True
    if rest[0] in ("name", "particles", "islands"):
        return len(rest) == 1
    if not hasattr(method, rest[0]):
        return False
    return len(rest) == 1 or hasattr(getattr(method, rest[0]), rest[1])


def test_every_setting_that_any_finding_names_exists(bed):
    sick = Health(
        particles=64,
        distinct=(0, 3, 3),
        different=(0.0, 1.5, 2.0),
        roots=(0, 1, 2),
        ess=(0.0, 0.02, 0.05),
        lam=(0.0, 0.1, 0.2),
        spread=(9.0,),
        largest=(0.99,),
        unknown=0.5,
        failed_values=0.5,
        failed_gradients=0.5,
        accepted=0.0,
    )
    found: set[str] = set()
    for method in METHODS:
        bare = replace(sick, roots=None, ess=None, lam=None, spread=None, largest=None)
        for health in (sick, bare, replace(sick, unknown=0.0)):
            if getattr(method, "move", None) is None:
                health = replace(health, accepted=None)
            for finding in _findings(health, method):
                found.add(finding.what)
                named = re.findall(r"sampler(?:\.[a-z_]+)+", finding.sentence)
                named += re.findall(r"\b(?:rewards|constraints)(?=\.)", finding.sentence)
                assert named, finding
                for setting in named:
                    assert exists(setting, method), (method, finding)
                for name in re.findall(r"sampler\.name to (\w+)", finding.sentence):
                    registry.build_method(name, {})
                for name in re.findall(r"sampler\.move to (\w+)", finding.sentence):
                    own = registry.to_mapping(method)
                    method = registry.build_method(own.pop("name"), own | {"move": name})
                    bed.run(method, (1, 2))
    assert found == {
        "dead", "stalled", "collapsed", "copies", "light", "apart", "unguided", "unknown",
        "failed", "refused",
    }  # fmt: skip


def test_a_run_tells_its_health_everywhere_and_old_folders_are_read(tmp_path):
    with campaign_of(tmp_path) as path:
        ran = call("run", path)
        folder = RunFolder(tmp_path / "runs" / "toy")
        summary = folder.summary()
        assert from_json(json.loads(json.dumps(to_json(summary)))) == summary
        said = summary.health.sentences
        assert len(summary.health.roots) == len(summary.ess)
        page = (folder.path / "report.html").read_text()
        state = call("status", folder.path)
        for sentence in said:
            assert sentence in words(ran)
            assert sentence in words(state)
            assert sentence in page
        shown = json.loads(call("status", folder.path, "--json").stdout)["health"]
        assert shown["findings"] == [vars(f) for f in summary.health.findings]

        ill = replace(summary.health, findings=(Finding("apart", "Islands <disagree>."),))
        folder.write_json("summary.json", to_json(replace(summary, health=ill)))
        assert folder.summary().health == ill
        assert "Islands <disagree>." in words(call("status", folder.path))
        assert call("report", folder.path).exit_code == 0
        assert "Islands &lt;disagree&gt;." in (folder.path / "report.html").read_text()

        data = dict(folder.read_json("summary.json"))
        del data["health"]
        folder.write_json("summary.json", data)
        assert folder.summary().health is None
        other = shutil.copytree(folder.path, tmp_path / "other")
        for verb in (["status"], ["status", "--json"], ["report"], ["compare", other], ["select"]):
            result = call(verb[0], folder.path, *verb[1:])
            assert result.exit_code == 0, words(result)
            assert "<disagree>" not in words(result)
        assert "health" not in folder.read_json("summary.json")
