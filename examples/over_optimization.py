"""Over-optimization: a greedy sampler wins the reward it sees and loses the one it does not.

    python examples/over_optimization.py [--seeds 5] [--figure over-optimization.png] [--quick]

All arms design PSD-95 PDZ3 with pdz-mini, at most 8 mutations, towards the sum of the stability and
affinity rewards. Greedy guidance follows their gradient without weights; the smaller alpha, the
greedier. DAS samples p_pre · exp(r / alpha) with weights and tempering. Judges that no arm sees:
the hold-out rewards, trained on the other half of the substitutions, and the log-likelihood under
the prior. All arms make the same network calls; means are weighted as each method weighs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import scipy.stats
import torch
import typer

import seqalign as sa
from seqalign.campaign.metrics import prior_log_likelihood

ALPHAS = (1.0, 0.3, 0.1, 0.03, 0.01)


Quick = Annotated[bool, typer.Option("--quick", help="1 seed, 4 particles, 2 strengths")]


def main(
    quick: Quick = False,
    seeds: int = 5,
    particles: int = 32,
    figure: Path | None = None,
    threads: int = 1,
) -> None:
    """Print the table, and draw the figure if asked."""
    torch.set_num_threads(threads)
    if quick:
        seeds, particles = 1, 4
    alphas = ALPHAS[::4] if quick else ALPHAS
    model = sa.load_model("pdz-mini", max_mutations=8)
    reward = sa.load_reward("pdz3-stability") + sa.load_reward("pdz3-affinity")
    holdouts = [sa.load_reward(f"pdz3-{what}-holdout") for what in ("stability", "affinity")]
    free = [i for i, a in enumerate(model.space.fixed) if a == model.space.alphabet.mask_symbol]

    def measure(method: sa.Method, seed: int, arm: str) -> list[float]:
        """Return mean reward, hold-out and log-likelihood per residue of one run's designs."""
        rng = sa.Streams(seed, (0,)).at(arm)
        shape = (1, particles)
        samples = method(model.process, reward, shape, rng=rng, space=model.space)
        w = samples.weights[0]
        prior = prior_log_likelihood(model.process, samples.designs.x[0], free, orders=1, seed=0)
        judged = sum((h(samples.designs)[0] for h in holdouts), start=torch.zeros(particles))
        columns = (samples.rewards[0], judged, prior / len(free))
        return [float((w * column).sum()) for column in columns]

    arms: dict[str, list[np.ndarray]] = {}
    plan: list[tuple[str, float]] = [("unguided", 1.0)]
    plan += [(name, a) for name in ("greedy guidance", "das") for a in alphas]
    print(f"{'':18s} {'alpha':>6s} {'guides':>9s} {'hold-outs':>11s} {'nats/residue':>13s}")
    for name, alpha in plan:
        if name == "unguided":
            method = sa.load_method("best_of_n", alpha=1e6)
        elif name == "das":
            method = sa.load_method("das", alpha=alpha)
        else:
            method = sa.load_method("guidance", alpha=alpha)
        rows = np.array([measure(method, s, name) for s in range(seeds)])
        arms.setdefault(name, []).append(rows)
        mean = rows.mean(0)
        print(f"{name:18s} {alpha:6.2f} {mean[0]:9.2f} {mean[1]:11.2f} {mean[2]:13.3f}", flush=True)

    greedy, das = arms["greedy guidance"][-1], arms["das"]
    best = max(das, key=lambda rows: float(rows[:, 1].mean()))
    for what, j in (("reward", 0), ("hold-out", 1), ("log-likelihood", 2)):
        difference = greedy[:, j] - best[:, j]
        line = f"strongest greedy minus DAS at its best hold-out, {what}: {difference.mean():+.2f}"
        if seeds > 1:
            t = scipy.stats.ttest_rel(greedy[:, j], best[:, j]).confidence_interval(0.95)
            line += f" ({t.low:+.2f} .. {t.high:+.2f})"
        print(line)
    if figure:
        draw(arms, alphas, figure)


def draw(arms: dict[str, list[np.ndarray]], alphas: tuple[float, ...], path: Path) -> None:
    """Draw hold-out and log-likelihood against the reward."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9.0, 3.8), layout="constrained")
    colors = {"unguided": "0.5", "greedy guidance": "#c1440e", "das": "#1f6f8b"}
    for name, runs in arms.items():
        points = np.array([rows.mean(0) for rows in runs])
        for axis, j in zip(axes, (1, 2), strict=True):
            axis.plot(points[:, 0], points[:, j], "o-", color=colors[name], label=name, ms=5)
            if name != "unguided":
                for alpha, point in zip(alphas, points, strict=True):
                    axis.annotate(
                        f"{alpha:g}",
                        (point[0], point[j]),
                        textcoords="offset points",
                        xytext=(5, 4),
                        fontsize=7,
                        color=colors[name],
                    )
    titles = ("Hold-outs, kcal/mol", "Prior log-likelihood, nats per residue")
    for axis, title in zip(axes, titles, strict=True):
        axis.set(xlabel="guides, kcal/mol over the wild type", title=title)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].legend(frameon=False)
    figure.savefig(path, dpi=160)
    print(f"wrote {path}")


if __name__ == "__main__":
    typer.run(main)
