import csv
import json
import re
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import yaml
from commands import call, campaign_of, imported, refuses, sets, words
from torch import Tensor

import seqalign as sa
from seqalign.campaign.check import check as prepare
from seqalign.campaign.estimate import estimate
from seqalign.campaign.images import Images
from seqalign.campaign.report.images import _by_prompt
from seqalign.campaign.store import RunFolder
from seqalign.campaign.yaml import read
from seqalign.files.pictures import contact_sheet, png, read_png

CODE = '''
from dataclasses import dataclass

import torch

from seqalign.core.gaussian import GaussianProcess
from seqalign.core.objective import Reward, RewardError
from seqalign.core.callables import function

COLORS = {"red": (1, 0, 0), "green": (0, 1, 0), "blue": (0, 0, 1), "gray": (0.5, 0.5, 0.5)}


class Denoiser:
    """Shrink toward the color of the prompt; the exact posterior of a Gaussian prior."""

    calls_per_state = 2

    def __init__(self, colors):
        self.colors = colors

    def take(self, islands):
        return self if len(self.colors) == 1 else Denoiser(self.colors[list(islands)])

    def __call__(self, x, t):
        mean = self.colors[:, None, :, None, None]
        return mean + (1 - t) * 0.4 * (x - mean)


def painter(prompt=None, prompts=None, *, steps: int = 4, negative_prompt: str = "",
            chunk: int | None = None):
    texts = (prompt,) if prompts is None else tuple(prompts)
    colors = torch.tensor([COLORS[text] for text in texts], dtype=torch.float64) * 2 - 1
    return GaussianProcess(Denoiser(colors), (3, 8, 8), steps, chunk=chunk, name="painter",
                           decoder=lambda x: (0.5 + 0.5 * x).clamp(0, 1), prompts=texts)


def plain(steps: int = 4) -> GaussianProcess:
    return GaussianProcess(lambda x, t: 0.5 * x, (3, 8, 8), steps, name="plain",
                           decoder=lambda x: (0.5 + 0.5 * x).clamp(0, 1))


def vectors(steps: int = 4) -> GaussianProcess:
    return GaussianProcess(lambda x, t: 0.5 * x, (2,), steps, name="vectors")


def secret(steps: int = 4):
    return plain(steps)


def lacking(prompts=None):
    raise ImportError('needs diffusers. Run: pip install "seqalign[images]"', name="diffusers")


@dataclass(frozen=True)
class Bright(Reward):
    """Mean of the pixels, weighted by position."""

    power: float = 1.0
    name: str = "bright"
    unit: str = "units"
    differentiable: bool = True

    def __call__(self, designs):
        return self.relaxed(designs.x)

    def relaxed(self, x):
        ramp = torch.linspace(0, 1, x.shape[-1], dtype=x.dtype) ** self.power
        return 10 * (x * ramp).flatten(2).mean(-1)


def bright(power: float = 1.0):
    return Bright(power)


class Named(Reward):
    """Knows what was asked for."""

    name = "named"
    differentiable = True

    def __call__(self, designs):
        with torch.no_grad():
            return self.graded(designs)

    def graded(self, designs):
        if designs.prompts is None:
            raise RewardError("Reward 'named' needs prompts.")
        colors = torch.tensor([COLORS[p] for p in designs.prompts], dtype=designs.x.dtype)
        return -(designs.x.mean((-1, -2)) - colors[:, None]).square().sum(-1)

    def embed(self, images):
        return images.flatten(1)


def named():
    return Named()


def count():
    return function(lambda x: [float(i.max()) for i in x], "count")
'''

POINTS = """[seqalign.models]
painter = toy_images.parts:painter
plain = toy_images.parts:plain
vectors = toy_images.parts:vectors
secret = toy_images.parts:secret
lacking = toy_images.parts:lacking

[seqalign.rewards]
toy-bright = toy_images.parts:bright
toy-named = toy_images.parts:named
toy-count = toy_images.parts:count
"""

CAMPAIGN = """version: 1
name: colors
seed: 5
input:
  prompts: [red, green, blue]
model:
  name: painter
rewards:
  bright: {oracle: toy-bright, scale: zscore}
  twin: {oracle: toy-bright, params: {power: 2}, role: holdout}
  named: {oracle: toy-named, role: final}
sampler: {name: das, islands: 2, particles: 6, alpha: 0.5}
"""


def install(folder: Path) -> Path:
    """Write an image plugin below a folder and return the path to put on sys.path."""
    root = folder / "image-plugin"
    package = root / "toy_images"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "parts.py").write_text(CODE)
    info = root / "toy_images-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-images\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text(POINTS)
    return root


@pytest.fixture(scope="module")
def campaign(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    with campaign_of(folder, CAMPAIGN, install) as path:
        (folder / "prompts.txt").write_text("red\n\n  blue \n")
        (folder / "score.py").write_text(
            "def dark(x):\n    return (-x.flatten(1).mean(1)).tolist()"
        )
        yield path


@pytest.fixture(scope="module")
def finished(campaign, tmp_path_factory):
    """A whole run through the command line."""
    folder = tmp_path_factory.mktemp("run") / "colors"
    result = call("run", campaign, "--out", folder)
    assert result.exit_code == 0, result.output
    return RunFolder(folder), result.output


# the Python door ----------------------------------------------------------------------------------


def test_a_prompt_gives_the_same_alone_and_in_company(campaign):
    reward = sa.load_reward("toy-bright")
    three = sa.load_model("painter", prompts=["red", "green", "blue"])
    both = sa.sample(three, reward, "das", islands=2, particles=5, alpha=0.5, seed=3)
    assert both.samples.designs.shape == (6, 5)
    assert both.samples.designs.prompts == ("red", "red", "green", "green", "blue", "blue")
    for row, text in enumerate(("red", "green", "blue")):
        one = sa.load_model("painter", prompt=text)
        alone = sa.sample(one, reward, "das", islands=2, particles=5, alpha=0.5, seed=3)
        mine = both.samples.designs.x[2 * row : 2 * row + 2]
        assert torch.equal(alone.samples.designs.x, mine)
        assert torch.equal(alone.samples.log_w, both.samples.log_w[2 * row : 2 * row + 2])
    x = both.samples.designs.x
    assert len({x[b].numpy().tobytes() for b in range(6)}) == 6, "replicates differ"


def test_every_method_is_rehearsed_exactly(campaign):
    model = sa.load_model("painter", prompts=["red", "blue"])
    reward = sa.load_reward("toy-bright")
    for name in ("das", "tds", "smc", "best_of_n", "svdd", "guidance", "fk_steering", "nested_is"):
        counted = Images().rehearse(sa.load_method(name), model, reward, 2)
        result = sa.sample(model, reward, name, particles=4, alpha=1.0, seed=1)
        assert result.samples.network_calls == counted.network * 8, name
        assert result.samples.reward_calls == counted.reward * 8, name
        assert len(result.trace) == counted.steps


def test_results_are_images(campaign, tmp_path):
    model = sa.load_model("painter", prompts=["red", "blue"])
    result = sa.sample(model, sa.load_reward("toy-bright"), "smc", islands=2, particles=4, seed=1)
    assert result.log_z is not None
    assert result.log_z.shape == (4,)
    best = result.best(3)
    assert best.prompts == ["red"] * 3 + ["blue"] * 3
    assert best.images.shape == (6, 3, 8, 8)
    assert best.rewards[:3] == sorted(best.rewards[:3], reverse=True)
    rewards = result.samples.rewards
    assert [best.rewards[0], best.rewards[3]] == [
        float(rewards[:2].max()),
        float(rewards[2:].max()),
    ]
    paths = best.to_images(tmp_path / "some")
    assert [p.name for p in paths] == [f"000{n}.png" for n in range(1, 7)]
    back = read_png(paths[0].read_bytes())
    assert (back - best.images[0]).abs().max() <= 0.5 / 255 + 1e-6
    result.contact_sheet(tmp_path / "sheet.png")
    # two lines of four images of 112 pixels
    assert read_png((tmp_path / "sheet.png").read_bytes()).shape[1] > 2 * 112


def test_a_bare_process_is_a_model(campaign):
    model = sa.load_model("painter", prompts=["red", "blue"])
    reward = sa.load_reward("toy-bright")
    named = sa.sample(model, reward, "smc", particles=4, seed=2)
    bare = sa.sample(model.process, reward, "smc", particles=4, seed=2)
    assert torch.equal(named.samples.designs.x, bare.samples.designs.x)
    without = sa.load_model("plain", steps=3)
    assert without.prompts is None
    assert without.steps == 3
    result = sa.sample(without.process, reward, "das", islands=2, particles=4, alpha=0.5, seed=2)
    assert result.samples.designs.shape == (2, 4)
    assert not torch.equal(result.samples.designs.x[0], result.samples.designs.x[1])
    assert result.best(2).prompts is None


def test_scales_come_from_every_prompt(campaign):
    model = sa.load_model("painter", prompts=["red", "green", "blue"])
    result = sa.sample(model, sa.load_reward("toy-bright").zscore(), "smc", particles=4, seed=1)
    # 22 designs of each of three prompts, 4 steps, a guidance pair each
    assert result.calibration_calls == 3 * 22 * 4 * 2


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: sa.load_model("painter", prompt="red", omit="C"), "draws images, and omit is"),
        (lambda: sa.load_model("plain", max_mutations=0), "draws images, and max_mutations is"),
        (lambda: sa.load_model("painter", promt="red"), "Did you mean 'prompt'"),
        (lambda: sa.load_model("pdz-mini", prompt="red"), "has no parameter 'prompt'"),
        (lambda: sa.load_model("lacking", prompts=["a"]), 'pip install "seqalign[images]"'),
        (lambda: sa.sample(object(), sa.load_reward("toy-bright")), "from_pipeline"),
        (
            lambda: sa.sample(sa.load_model("pdz-mini").process, sa.load_reward("toy-bright")),
            "Set steps >= 84",
        ),
    ],
)
def test_what_does_not_fit_stops_with_a_sentence(campaign, call, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        call()


def test_eta_zero_is_refused_before_any_call(campaign):
    process = replace(sa.load_model("painter", prompt="red").process, eta=0.0)
    with pytest.raises(ValueError, match="eta = 0"):
        sa.sample(process, sa.load_reward("toy-bright"), "das", particles=4)


# files --------------------------------------------------------------------------------------------


def test_images_become_files_and_come_back():
    levels = torch.arange(256, dtype=torch.float64).reshape(1, 16, 16) / 255
    assert torch.equal(read_png(png(levels)), levels.expand(3, -1, -1).float())
    outside = torch.tensor([-0.5, 1.5]).reshape(1, 1, 2)
    assert read_png(png(outside)).unique().tolist() == [0, 1]
    with pytest.raises(ValueError, match="no images"):
        png(torch.zeros(2))
    with pytest.raises(ValueError, match="no image"):
        contact_sheet([("nothing", [[]])])


# campaigns ----------------------------------------------------------------------------------------


def test_a_run_writes_everything(finished, campaign):
    folder, output = finished
    names = {p.name for p in folder.path.iterdir()}
    assert {
        "config.yaml", "designs.csv", "baselines.csv", "rejected.csv", "trace.jsonl", "images",
        "contact-sheet.png", "summary.json", "report.html", "state",
    } <= names  # fmt: skip
    rows = folder.read_csv("designs.csv")
    assert list(rows[0]) == [
        "id", "prompt", "file", "bright", "twin", "named", "total", "bright_scaled", "island",
        "log_w", "copies", "method", "seed",
    ]  # fmt: skip
    summary = folder.read_json("summary.json")
    assert sum(int(r["copies"]) for r in rows) == summary["drawn"] == 3 * 2 * 6
    assert {r["prompt"] for r in rows} == {"red", "green", "blue"}
    for row in rows:
        image = read_png((folder.path / row["file"]).read_bytes())
        ramp = torch.linspace(0, 1, 8)
        assert 10 * float((image * ramp).mean()) == pytest.approx(float(row["bright"]), abs=0.02)
        color = {"red": 0, "green": 1, "blue": 2}[row["prompt"]]
        assert image.mean((1, 2)).argmax() == color
    assert "over best-of-N at equal network calls" in output
    assert "95 % interval" in output
    # the weights of a prompt sum to one
    for text in ("red", "green", "blue"):
        total = sum(torch.tensor(float(r["log_w"])).exp() for r in rows if r["prompt"] == text)
        assert float(total) == pytest.approx(1, abs=1e-4)


def test_the_comparison_is_at_equal_calls(finished):
    folder, _ = finished
    summary = folder.read_json("summary.json")
    assert summary["network_calls"]["aligned"] == summary["network_calls"]["best_of_n"]
    others = folder.read_csv("baselines.csv")
    # a step costs 2 calls for the pair, and twice as many for the way back
    assert len(others) == 3 * 2 * 6 * 3
    by = {(r["row"], r["which"].split()[0]): r for r in summary["rows"]}
    rows = folder.read_csv("designs.csv")
    tops = [max(float(r["bright"]) for r in rows if r["island"] == str(b)) for b in range(6)]
    assert by["aligned", "best"]["bright"] == pytest.approx(sum(tops) / 6, abs=1e-4)
    plain = [float(r["bright"]) for r in others]
    assert by["unguided", "all"]["bright"] == pytest.approx(sum(plain) / len(plain), abs=1e-4)
    pair = summary["paired"]["best_of_n"]["bright"]
    assert summary["paired"]["pairs"] == 3
    assert pair["gain"] == pytest.approx(pair["aligned"] - pair["other"])
    assert pair["low"] < pair["gain"] < pair["high"]
    # the embedding of a reward that was not optimized measures diversity
    assert summary["diversity"]["of"] == "embedding of named"
    assert 1 <= by["aligned", "all"]["vendi"] <= 12


def test_a_continued_run_gives_the_same_bits(campaign, finished, tmp_path):
    whole = finished[0]
    folder = RunFolder(tmp_path / "again")
    assert call("run", campaign, "--out", folder.path).exit_code == 0
    names = ("designs.csv", "baselines.csv", "rejected.csv", "trace.jsonl", "contact-sheet.png")
    kept = [*names, *(f"images/{p.name}" for p in (whole.path / "images").iterdir())]

    def bits():
        return {name: (folder.path / name).read_bytes() for name in kept}

    before = bits()
    assert before == {name: (whole.path / name).read_bytes() for name in kept}
    (folder.path / "summary.json").unlink()
    for name in ("aligned-00003", "best_of_n-00000"):
        (folder.path / "state" / f"{name}.safetensors").unlink()
    for path in (folder.path / "images").iterdir():
        path.unlink()
    assert call("run", campaign, "--out", folder.path).exit_code == 0
    assert bits() == before
    assert (folder.path / "summary.json").is_file()


def test_islands_are_kept_without_loss(finished):
    folder, _ = finished
    model = sa.load_model("painter", prompts=["red", "green"])
    samples, _ = folder.load_island("aligned", 2, model, 2)
    assert samples.designs.x.dtype == torch.float64
    assert samples.designs.prompts == ("green",)
    levels = samples.designs.x * 255
    assert (levels - levels.round()).abs().max() > 0.1, "not the eight bits of an image file"


def test_choosing_again_draws_nothing(finished, campaign, tmp_path):
    folder = RunFolder(tmp_path / "chosen")
    assert call("run", campaign, "--out", folder.path).exit_code == 0
    files = ("designs.csv", "rejected.csv", "report.html", "contact-sheet.png", "summary.json")
    before = {n: (folder.path / n).read_bytes() for n in files}
    best = folder.read_csv("designs.csv")[0]
    (folder.path / best["file"]).unlink()
    result = call("select", folder.path, "--set", "select.top=2", "--set", "select.rank_by=twin")
    assert result.exit_code == 0, result.output
    rows = folder.read_csv("designs.csv")
    assert Counter(r["prompt"] for r in rows) == {"red": 2, "green": 2, "blue": 2}
    assert all(float(a["twin"]) >= float(b["twin"]) for a, b in pairwise(rows))
    assert "below the top 2 of its prompt" in (folder.path / "rejected.csv").read_text()
    result = call("select", folder.path)
    assert result.exit_code == 0
    assert (folder.path / best["file"]).is_file(), "drawn again from its island"
    assert {n: (folder.path / n).read_bytes() for n in files} == before
    assert call("select", folder.path, "--set", "select.top=2").exit_code == 0
    assert call("select", folder.path, "--set", "select.filters=[n_mut < 3]").exit_code == 2


def test_the_report_is_one_file(finished):
    folder, _ = finished
    html = (folder.path / "report.html").read_text()
    sources = re.findall(r'src="([^"]*)"', html)
    # copies of one particle are one design
    rows = len(folder.read_csv("designs.csv"))
    assert len(sources) == 3 * 12 + rows
    assert all(s.startswith("data:image/png;base64,") and len(s) > 100 for s in sources)
    assert not re.findall(r"https?://(?!www\.w3\.org)", html)
    ids = re.findall(r'id="([^"]+)"', html)
    assert len(ids) == len(set(ids))
    for section in (
        "kept", "gallery", "gains", "overoptimization", "health", "designs", "diversity",
        "reproduce",
    ):  # fmt: skip
        assert f'id="{section}"' in html
    assert "No design was rejected" in html
    assert "residues" not in html.split('id="reproduce"')[0]
    assert "Vendi score" in html


def test_the_other_verbs_know_images(finished, campaign, tmp_path):
    folder, _ = finished
    told = call("status", folder.path)
    assert told.exit_code == 0
    assert folder.read_csv("designs.csv")[0]["file"] in told.output
    other = tmp_path / "other"
    changed = call("run", campaign, "--set", "sampler.name=tds", "--out", other)
    assert changed.exit_code == 0
    assert "1 − cosine" in call("compare", folder.path, other).output
    less = tmp_path / "less"
    assert call("run", campaign, "--set", "input.prompts=[red]", "--out", less).exit_code == 0
    assert "the prompts differ" in words(call("compare", folder.path, less))
    table = call("export", folder.path, "--csv", "--out", tmp_path / "e")
    assert table.exit_code == 0
    with (tmp_path / "e" / "designs.csv").open() as file:
        assert next(csv.DictReader(file))["file"].startswith("images/")
    assert "images, which have no letters" in words(call("export", folder.path, "--fasta"))
    cited = call("cite", campaign)
    assert "ddpm" in cited.output
    assert "mdlm" not in cited.output
    (tmp_path / "s.fasta").write_text(">a\nMKT\n")
    scored = call("score", tmp_path / "s.fasta", "-c", campaign)
    assert scored.exit_code == 2
    assert "draws images" in words(scored)


def test_check_counts_without_the_network(campaign):
    result = call("check", campaign, "--json")
    assert result.exit_code == 0, result.output
    data = json.loads(result.output)
    assert data["prompts"] == ["red", "green", "blue"]
    assert data["islands"] == 6
    # 4 steps and a pair: forward and backward of 4 states; the last state is not looked at
    assert data["network_calls"]["aligned"] == 6 * 6 * 4 * 2 * 3
    assert data["network_calls"]["best_of_n"] >= data["network_calls"]["aligned"]
    assert data["network_calls"]["calibration"] == 3 * 22 * 4 * 2
    assert data["seconds"] > 0
    shown = call("check", campaign)
    assert "3 prompts, 2 islands each, 4 steps" in shown.output
    assert "bright [units]: weight 1" in shown.output


def test_estimates_ask_for_few_network_calls(campaign):
    plan = prepare(*read(campaign))
    seen = []
    inner = plan.model.process.denoiser

    class Counting:
        calls_per_state = 2

        def take(self, islands):
            return self

        def __call__(self, x: Tensor, t: float) -> Tensor:
            seen.append(len(x[0]))
            return inner.take([0])(x, t)

    process = replace(plan.model.process, denoiser=Counting())
    estimate(replace(plan, model=replace(plan.model, process=process)))
    assert sum(seen) <= 3 * 6


def test_chunks_of_one_size_waste_no_call(campaign):
    """18 unguided designs in chunks of at most 5 are four of 5, counted as they are made."""
    plan = prepare(*read(campaign, ["model.chunk=5", "sampler.islands=1"]))
    # 6 particles in two chunks of 3; 18 in four, of which the last is padded by 2
    assert plan.rehearsals["aligned"].network == 4 * 2 * 3
    assert plan.rehearsals["best_of_n"].network == pytest.approx(4 * 2 * 20 / 18)
    reward = sa.load_reward("toy-bright")
    result = sa.sample(plan.model, reward, "das", particles=6, alpha=0.5)
    assert result.samples.network_calls == 3 * 6 * 4 * 2 * 3


def test_prompts_come_from_a_file(campaign):
    plan = prepare(*read(campaign, ["input.prompts=prompts.txt"]))
    assert plan.model.prompts == ("red", "blue")
    assert plan.config["resolved"]["prompts"] == ["red", "blue"]
    assert len(plan.config["resolved"]["input_sha256"]) == 64
    assert plan.islands == 4
    assert yaml.safe_dump(json.loads(json.dumps(plan.config)))


def test_a_budget_of_designs_sets_the_islands(campaign):
    plan = prepare(*read(campaign, ["sampler.islands=null", "budget.designs=40"]))
    assert (plan.replicates, plan.islands) == (3, 9)


def test_python_functions_score_images(campaign, tmp_path):
    changes = ["rewards={d: {python: score.py:dark}}", "sampler.name=smc", "baselines=[]"]
    result = call("run", campaign, *sets(changes), "--out", tmp_path / "r")
    assert result.exit_code == 0, result.output
    folder = RunFolder(tmp_path / "r")
    assert folder.read_json("summary.json")["paired"]["best_of_n"] == {}
    assert float(folder.read_csv("designs.csv")[0]["d"]) < 0


def test_images_without_prompts(campaign, tmp_path):
    text = CAMPAIGN.replace("painter", "plain")
    text = text.replace("input:\n  prompts: [red, green, blue]\n", "")
    path = campaign.parent / "plain.yaml"
    path.write_text(text.replace("  named: {oracle: toy-named, role: final}\n", ""))
    result = call("run", path, "--out", tmp_path / "r")
    assert result.exit_code == 0, result.output
    folder = RunFolder(tmp_path / "r")
    summary = folder.read_json("summary.json")
    assert summary["prompts"] is None
    # pairs are islands; pixels measure diversity, for no reward embeds images
    assert (summary["paired"]["over"], summary["paired"]["pairs"]) == ("islands", 2)
    assert "cells" in summary["diversity"]["of"]
    assert {r["prompt"] for r in folder.read_csv("designs.csv")} == {""}
    assert 'id="gallery"' in (folder.path / "report.html").read_text()
    assert "without a prompt" in call("check", path).output
    assert sa.load_model("secret", steps=3).steps == 3
    hidden = call("check", path, "--set", "model.name=secret")
    assert hidden.exit_code == 2
    assert "return annotation" in words(hidden)


def test_prompts_are_text_everywhere():
    """Dollars are no formulas, tags no tags, line breaks no lines."""
    odd = ["$5 and $6", "<b>bold</b>", "two\nlines"]
    image = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0))
    whole = [(p, [[(image, "1")]]) for p in odd]
    plain = [(p, [[(image, "1")]]) for p in ["$5 and $6", "<b>bold</b>", "two lines"]]
    assert contact_sheet(whole) == contact_sheet(plain)
    rows = [{"prompt": p, "a": "1.5", "island": "0", "total": "1"} for p in odd]
    drawing = str(_by_prompt(odd, "a", "a", [("aligned", "#040404", "o", rows)]))
    assert "$5 and $6" in drawing
    assert "two lines" in drawing
    assert "<b>" not in drawing


def test_nothing_passes(campaign, tmp_path):
    result = call("run", campaign, "--set", "select.filters=[bright > 99]", "--out", tmp_path / "r")
    assert result.exit_code == 3
    assert "Nothing passed" in (tmp_path / "r" / "report.html").read_text()
    # best-of-N and unguided images are there all the same
    assert (tmp_path / "r" / "contact-sheet.png").is_file()


WRONG = {
    "input.prompts=none.txt": ["input.prompts", "no file", "as a list"],
    "input.prompts=[]": ["input.prompts", "no prompt"],
    "input.prompts=[red, red]": ["input.prompts.1", "given twice", "sampler.islands"],
    "input.prompts=[red, ' ']": ["input.prompts.1", "is empty"],
    "input.prompts=[mauve]": ["model", "'mauve'"],
    "input.prompts=3": ["input.prompts", "a list of texts"],
    "input.prompts=null": ["input.prompts", "draws what it is asked for"],
    "input.wild_type=MKT": ["input.wild_type", "draws images", "Remove it"],
    "input.structure=a.pdb": ["input.structure", "draws images"],
    "design.fix=1-3": ["design", "draws images"],
    "constraints.omit=C": ["constraints", "draws images"],
    "select.diversity.min_mutations_apart=2": ["min_mutations_apart", "no mutations"],
    "select.filters=[n_mut < 3]": ["select.filters.0", "no column 'n_mut'"],
    "model.prompts=[red]": ["model.prompts", "input.prompts"],
    "model.device=cuda": ["model.device", "'cpu'"],
    "model.stepz=3": ["model.stepz", "'steps'"],
    "model.name=plain": ["input.prompts", "reads no prompts"],
    "model.name=pdz-mini": ["input.prompts", "designs sequences"],
    "rewards.bright.oracle=charge": ["rewards.bright", "decoded noise", "continuous"],
    "rewards.c.command=score {fasta}": ["rewards.c.command", "draws images", "python"],
    "rewards.bright.oracle=toy-count": ["sampler", "gradient"],
    "rewards.file.oracle=toy-bright": ["rewards.file", "column"],
    "budget.designs=100": ["budget.designs", "6 islands", "each of 3 prompts"],
    "budget.calls.network=10": ["budget.calls.network", "needs 1728"],
}


@pytest.mark.parametrize("change", WRONG)
def test_bad_input_stops_with_place_value_and_cure(campaign, change):
    refuses(campaign, change, WRONG[change])


def test_a_negative_prompt_goes_to_models_that_take_one(campaign, tmp_path):
    assert call("check", campaign, "--set", "input.negative_prompt=dark").exit_code == 0
    text = CAMPAIGN.replace("painter", "vectors").replace("  prompts: [red, green, blue]\n", "")
    path = campaign.parent / "v.yaml"
    path.write_text(text.replace("input:\n", "input: {negative_prompt: dark}\n"))
    assert "no negative prompt" in words(call("check", path))
    path.write_text(text.replace("input:\n", ""))
    shown = call("check", path)
    assert shown.exit_code == 2
    assert "are no images" in words(shown)


def test_a_missing_extra_names_the_install_line(campaign):
    result = call("check", campaign, "--set", "model.name=lacking")
    assert result.exit_code == 4
    assert 'pip install "seqalign[images]"' in words(result)


def test_nothing_heavy_is_imported():
    assert imported("seqalign", ("diffusers", "transformers", "PIL", "matplotlib")) == []
