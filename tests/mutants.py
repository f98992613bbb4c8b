"""Put each published bug back into the core and require that a law notices.

`python tests/mutants.py [--every] [NAME ...]` copies the packages, applies one mutation per copy,
runs the laws that must fail there, and exits with 1 if a mutant survives. A law must fail by an
assertion: an error of import, syntax or type proves nothing.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WORKERS = 2
ASSERTIONS = {"AssertionError", "Failed"}

# runs inside pytest: which exceptions the laws raised, and proof that the copy was tested
PLUGIN = """
import json, os, pathlib
import seqalign

assert pathlib.Path(seqalign.__file__).is_relative_to(os.environ["MUTANT_SITE"]), seqalign.__file__
seen = []


def leaves(error):
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in leaves(inner)]
    return [error]


def pytest_exception_interact(node, call, report):
    seen.append([report.nodeid, [type(e).__name__ for e in leaves(call.excinfo.value)]])


def pytest_sessionfinish(session, exitstatus):
    report = {"failed": seen, "ran": session.testscollected}
    pathlib.Path(os.environ["MUTANT_REPORT"]).write_text(json.dumps(report))
"""


@dataclass(frozen=True)
class Edit:
    """Replace a text that must occur exactly once in a file."""

    file: str
    old: str
    new: str


@dataclass(frozen=True)
class Mutant:
    """A published bug: what it was, how to put it back, and the laws that must fail."""

    name: str
    bug: str
    edits: tuple[Edit, ...]
    killers: tuple[str, ...]


def edit(file: str, old: str, new: str) -> tuple[Edit, ...]:
    return (Edit(f"seqalign/{file}.py", old, new),)


RESET = "            log_w=torch.where(due[:, None], 0.0, moved.log_w),\n"
COLLECT = (
    "            log_z=torch.where(due, particles.log_z + log_mean_exp(flat), particles.log_z),\n"
)
EXACT = "core/test_laws_exactness.py::test_every_consistent_method_is_exact"
FRESH = "core/test_particles.py::test_the_state_is_what_a_fresh_look_at_it_says"
TAILS = "core/test_laws_tails.py::test_what_holds_a_percent_of_the_target_is_drawn"
STATIONARY = "core/test_moves_stationary.py::"
TELESCOPE = "core/test_laws_mutants.py::test_tilted_weights_telescope_too"

MUTANTS = (
    Mutant(
        "sketch-deaf",
        "a network that is asked for one position is not told the letter that it got",
        edit("core/sketch", "inner = self._told(x, before)", "inner = kept.inner"),
        ("core/test_laws_exactness.py::test_one_position_a_step_is_exact",),
    ),
    Mutant(
        "sketch-unnormalized",
        "letters that are tilted one position a step are weighed without their normalizer",
        edit(
            "core/sketch",
            "return torch.where(torch.isneginf(mass), -torch.inf, own - mass)",
            "return own",
        ),
        ("core/test_laws_exactness.py::test_one_position_a_step_is_exact",),
    ),
    Mutant(
        "move-without-proposal",
        "a move forgets what the proposal prefers",
        edit("core/moves", "gain = gain - (back.log_p - back.log_q)", "pass"),
        (
            "core/test_moves.py::test_redraw_is_exact_for_any_process_and_network",
            f"{STATIONARY}test_a_move_leaves_the_law_alone[remask-2-all]",
        ),
    ),
    Mutant(
        "move-without-twist",
        "a move forgets the value of what it proposes",
        edit("core/moves", " + new.log_twist - old.log_twist", ""),
        ("core/test_moves.py::test_redraw_is_exact_for_any_process_and_network",),
    ),
    Mutant(
        "forgotten-order",
        "a network that remembers is told the letters without the order in which they came",
        edit(
            "core/look",
            "        if sure or self.process.takes_time or not self.process.discrete:\n"
            "            return self(x, t, rng, before=before.posterior)",
            "        if sure or self.process.takes_time or not self.process.discrete:\n"
            "            return self(x, t, rng)",
        ),
        (f"{EXACT}[masked-remembering-tds]",),
    ),
    Mutant(
        "stale-memory",
        "what a network remembers stays with the slot and not with the particle",
        edit(
            "core/process",
            '    changed |= {k: v.map(f) for k, v in found.items() if hasattr(v, "map")}\n',
            "",
        ),
        (f"{EXACT}[masked-remembering-tds]",),
    ),
    Mutant(
        "gradient-without-count",
        "a gradient that is no number becomes zero, and nobody is told",
        edit("core/look", "broken = failed(score, leaf if letters else None)", "pass"),
        ("core/test_failures.py::test_failed_gradients_are_counted",),
    ),
    Mutant(
        "chains-from-anywhere",
        "chains begin at the first particles and not at those that resampling has chosen",
        edit(
            "core/selection",
            "scheme(flat, u, n).repeat_interleave",
            "stay[:n].expand(len(u), n).repeat_interleave",
        ),
        ("core/test_chains.py::test_several_chains_are_exact",),
    ),
    Mutant(
        "chains-without-resampling",
        "an island that was not resampled has chains too, of particles that weigh otherwise",
        edit("core/moves", "whole, parts[0])", "whole, whole)"),
        ("core/test_chains.py::test_an_island_that_is_not_resampled_stays_as_it_is",),
    ),
    Mutant(
        "move-without-what-came-later",
        "a move of paths forgets the letters that were revealed after what it moves",
        edit(
            "core/reorder",
            "odds.sum(-1) - _beside(old.odds).gather(-1, path).sum(-1)",
            "new.log_p - back.log_p",
        ),
        (
            f"{STATIONARY}test_a_move_leaves_the_law_alone[reorder-free]",
            f"{STATIONARY}test_where_conditionals_disagree_only_a_move_of_paths_is_exact",
        ),
    ),
    Mutant(
        "move-to-the-end",
        "a move of paths always puts what it draws last, which nothing undoes",
        edit("core/reorder", 'split("into")', "torch.arange(depth).expand_as(path)"),
        (f"{STATIONARY}test_a_move_leaves_the_law_alone[reorder-free]",),
    ),
    Mutant(
        "short-path-refused",
        "the empty places of a short path are those of positions that could be revealed",
        edit("core/reorder", "path = torch.where(there, path, length)", "pass"),
        (f"{STATIONARY}test_a_short_path_is_moved_as_far_as_it_goes",),
    ),
    Mutant(
        "no-way-back",
        "a move leaves what its proposal could not have drawn",
        edit("core/moves", "gain - (back.log_p - back.log_q)", "gain - back.gain"),
        (f"{STATIONARY}test_what_the_proposal_could_not_draw_is_not_left[remask-2]",),
    ),
    Mutant(
        "stale-path",
        "a moved particle remembers the path that it had",
        edit("core/moves", "if parts[0].order is not None:", "if False:"),
        (f"{STATIONARY}test_a_path_is_remembered_as_it_was",),
    ),
    Mutant(
        "drift-without-return",
        "a move along a gradient forgets that the way back has another one",
        edit("core/moves", " + back.log_prob(old.x) - there.log_prob(x)", ""),
        (f"{STATIONARY}test_langevin_moves_leave_the_law_alone",),
    ),
    Mutant(
        "stale-twist",
        "after resampling, log_twist stays with the slot and not with the particle",
        edit("core/selection", RESET, RESET + "            log_twist=particles.log_twist,\n"),
        (FRESH, f"{EXACT}[masked-random-tds]"),
    ),
    Mutant(
        "stale-guidance",
        "after resampling, a particle is guided by the gradient of another one",
        edit("core/selection", RESET, RESET + "            score=particles.score,\n"),
        (FRESH,),
    ),
    Mutant(
        "stale-posterior",
        "after resampling, a particle is denoised with the x̂0 of another one",
        edit(
            "core/selection",
            RESET,
            RESET
            + "            posterior=particles.posterior,\n            guide=particles.guide,\n",
        ),
        (FRESH, f"{EXACT}[masked-random-smc]"),
    ),
    Mutant(
        "stale-field",
        "gather forgets one field of the state",
        edit(
            "core/particles",
            'if item.name in ("posterior", "guide"):',
            'if item.name == "memo":\n                continue\n'
            '            if item.name in ("posterior", "guide"):',
        ),
        ("core/test_particles.py::test_gather_moves_every_field_and_no_island",),
    ),
    Mutant(
        "weights-dropped",
        "resampling resets the weights without adding their mean to log Z",
        edit(
            "core/selection",
            COLLECT,
            "            log_z=particles.log_z,\n",
        ),
        (
            "core/test_laws_mutants.py::test_resampling_keeps_what_is_known_about_z",
            f"{EXACT}[masked-random-smc]",
        ),
    ),
    Mutant(
        "weights-reset-everywhere",
        "under adaptive resampling, islands that did not resample lose their weights too",
        edit("core/selection", RESET, "            log_w=torch.zeros_like(moved.log_w),\n"),
        (
            "core/test_particles.py::test_resampling_moves_weight_to_log_z_only_where_it_happens",
            "core/test_laws_mutants.py::test_resampling_keeps_what_is_known_about_z",
        ),
    ),
    Mutant(
        "flattened-log-z",
        "log Z by logsumexp over the flattened batch: islands share one estimate",
        edit(
            "core/method",
            "log_z = particles.log_z + log_mean_exp(log_w)",
            "log_z = particles.log_z + log_mean_exp(log_w.flatten())",
        ),
        ("core/test_laws_mutants.py::test_each_island_has_the_log_z_it_has_alone",),
    ),
    Mutant(
        "flattened-resampling",
        "at resampling, the mean weight is taken over the flattened batch",
        edit(
            "core/selection",
            COLLECT,
            COLLECT.replace("(flat)", "(flat.flatten())"),
        ),
        ("core/test_laws_mutants.py::test_each_island_has_the_log_z_it_has_alone",),
    ),
    Mutant(
        "mask-of-x-t",
        "x_s is imputed with the mask of x_t: the letters just revealed are ignored",
        edit(
            "core/smc",
            "self._look.again(x_s, state, self._times[i], rng)",
            "self._look.again(torch.where(state.x == getattr(self.process, 'alphabet').mask, "
            "state.x, x_s), state, self._times[i], rng)",
        ),
        (FRESH, f"{EXACT}[masked-random-smc]"),
    ),
    Mutant(
        "argmax-returned",
        "the argmax before the last selection is returned instead of the particle",
        edit(
            "core/method",
            "return Samples(loop.process.decode(x), ",
            "return Samples(loop.process.decode(particles.posterior.mode), ",
        ),
        (
            "core/test_laws_mutants.py::test_designs_and_rewards_belong_together",
            f"{EXACT}[masked-random-smc]",
        ),
    ),
    Mutant(
        "no-normalizer-categorical",
        "the tilted categorical proposal is weighed without its normalizer",
        edit(
            "core/discrete",
            "return Categorical(torch.log_softmax(self.log_probs + g, -1))",
            "return Categorical(self.log_probs + g)",
        ),
        (
            "core/test_tilt.py::test_tilt_is_brute_force_reweighting[1.0-categorical]",
            f"{EXACT}[masked-parallel-tds]",
        ),
    ),
    Mutant(
        "no-normalizer-one-reveal",
        "the tilted choice of a position is weighed without its normalizer",
        edit(
            "core/discrete",
            "log_position = log_position - torch.logsumexp(log_position, -1, keepdim=True)\n",
            "pass\n",
        ),
        (
            "core/test_tilt.py::test_tilt_is_brute_force_reweighting[1.0-one_reveal]",
            f"{EXACT}[masked-random-tds]",
        ),
    ),
    Mutant(
        "no-mask-gradient",
        "the gradient of staying masked is left out of the one-reveal tilt",
        edit(
            "core/discrete",
            "return g[..., :-1] - g[..., -1:]",
            "return g[..., :-1]",
        ),
        ("core/test_tilt.py::test_tilt_is_brute_force_reweighting[1.0-one_reveal]",),
    ),
    Mutant(
        "revealed-counted",
        "log-probabilities are counted over positions that were revealed already",
        edit(
            "core/discrete",
            "point = torch.where(known[..., None], 0.0, log_pi.gather(-1, letter))",
            "point = log_pi.gather(-1, letter)",
        ),
        (
            "core/test_discrete.py::test_known_positions_are_point_masses_and_rows_are_normalized",
            f"{EXACT}[masked-parallel-tds]",
        ),
    ),
    Mutant(
        "averaged-gradient",
        "the gradient is averaged over the batch: guidance weakens as particles are added",
        edit(
            "core/look",
            "(score,) = torch.autograd.grad(value.sum(), leaf)",
            "(score,) = torch.autograd.grad(value.mean(), leaf)",
        ),
        (FRESH,),
    ),
    Mutant(
        "tempering-jumps",
        "adaptive tempering starts where all values are equal: lam jumps to 1 at once",
        edit(
            "core/tempering",
            "return (i / n) ** (1.0 if self.pace is None else self.pace) if i else 0.0",
            "return 1.0 if i else 0.0",
        ),
        (
            "core/test_tempering.py::test_adaptive_does_not_spend_everything_where_all_values_are_equal",
            "core/test_laws_mutants.py::test_tempering_starts_at_zero_and_keeps_its_pace",
        ),
    ),
    Mutant(
        "tempering-waits",
        "a rough value is held to i/n where the whole reward would leave few particles",
        edit("core/tempering", "        if self.pace is None:\n", "        if False:\n"),
        (
            "core/test_tempering.py::test_a_rough_value_is_waited_for_where_that_costs_nothing",
            "core/test_laws_exactness.py::test_islands_that_hurry_and_islands_that_wait_are_exact",
        ),
    ),
    Mutant(
        "tilt-without-limit",
        "a step is tilted by the whole gradient, however steep the reward is against alpha",
        edit("core/proposal", "g = g / far.clamp(min=1.0)", "g = g / far.clamp(min=1.0, max=1.0)"),
        ("core/test_tilt.py::test_a_tilt_moves_a_continuous_state_no_further_than_its_limit",),
    ),
    Mutant(
        "tempering-starts-at-one",
        "the schedule is applied at t = T, before anything is known",
        edit("core/look", "            lam=flat,\n", "            lam=torch.ones_like(flat),\n"),
        ("core/test_laws_mutants.py::test_tempering_starts_at_zero_and_keeps_its_pace",),
    ),
    Mutant(
        "last-step-by-float",
        "the last step is detected by t == 0",
        edit(
            "core/smc",
            "rng, last, m = rng.at(i), i == n,",
            "rng, last, m = rng.at(i), self._times[i] == 0.0,",
        ),
        ("core/test_laws_mutants.py::test_the_last_step_is_counted_not_compared",),
    ),
    Mutant(
        "nan-is-zero",
        "a NaN reward is turned into 0",
        edit(
            "core/objective",
            "    r = r.to(designs.x.device, torch.float64)\n",
            "    r = torch.nan_to_num(r.to(designs.x.device, torch.float64), nan=0.0)\n",
        ),
        ("core/test_objective.py::test_nan_is_never_a_score",),
    ),
    Mutant(
        "failure-is-zero",
        "an intermediate value that failed counts as 0, wherever the zero of the reward lies",
        edit(
            "core/look",
            "torch.where(count > 0, now + (known - then), before)",
            "known",
        ),
        (
            "core/test_laws_zero_point.py::test_a_constant_changes_no_design_and_shifts_log_z[smc-random-0.4]",
            "core/test_laws_zero_point.py::test_a_constant_changes_no_design_and_shifts_log_z[tds-uniform-0.4]",
        ),
    ),
    Mutant(
        "residual-biased",
        "residual resampling draws the rest from the weights instead of the remainders",
        edit(
            "core/resampling",
            "drawn = _invert(rest / rest.sum(-1, keepdim=True), u)",
            "drawn = _invert(_weights(log_w), u)",
        ),
        (
            "core/test_resampling.py::test_offspring_are_unbiased[five-residual]",
            "core/test_laws_exactness.py::test_every_resampling_scheme_is_exact[masked-random-residual]",
        ),
    ),
    Mutant(
        "gradient-steps",
        "adaptive tempering takes gradient steps on the effective sample size instead of bisecting",
        edit(
            "core/tempering",
            "            middle = 0.5 * (good + bad)\n"
            "            fits = ess_at(lam + middle * room) >= self.ess\n"
            "            good, bad = torch.where(fits, middle, good), "
            "torch.where(fits, bad, middle)\n",
            "            good = good if _ else 0.0 * good\n"
            "            here = ess_at(lam + good * room)\n"
            "            slope = (ess_at(lam + (good + 1e-4) * room) - here) / 1e-4\n"
            "            good = (good - (here - self.ess) / slope.clamp(max=-1e-6)).clamp(0, 1)\n",
        ),
        (
            "core/test_tempering.py::test_adaptive_keeps_its_target_and_its_pace",
            "core/test_tempering.py::test_adaptive_bisection_finds_the_root_for_hard_shapes",
        ),
    ),
    Mutant(
        "forced-wild-type",
        "the wild type is forced once the budget is spent, with no look-ahead before",
        edit(
            "space/bound",
            "        log_h, given = _budget(split, left)\n",
            "        room = left[..., None] > 0\n"
            "        sure = torch.tensor((0.0, -torch.inf)).double().reshape(2, 1, 1, 1)\n"
            "        given = torch.where(room, split, sure)\n"
            "        log_h = torch.where(left >= 0, 0.0, -torch.inf).double()\n",
        )
        + edit(
            "space/bound",
            "        if self.keep is None:\n            return None\n",
            "        return None\n",
        ),
        (
            "space/test_space.py::test_wild_type_is_never_forced_before_the_budget_is_spent",
            "space/test_space.py::test_condition_equals_enumeration",
        ),
    ),
    Mutant(
        "look-ahead-twice",
        "the look-ahead of x_t is not taken back when that of x_s is added: h counts twice",
        edit(
            "core/smc",
            "state.log_w + shift + log_h - state.log_h",
            "state.log_w + shift + log_h",
        ),
        (
            "core/test_laws_exactness.py::test_every_constraint_is_exact[charge-both]",
            "core/test_laws_exactness.py::test_every_constraint_is_exact[tie]",
        ),
    ),
    Mutant(
        "end-unchecked",
        "an approximate look-ahead without the indicator of the constraints at the end",
        edit(
            "core/smc",
            "inside = torch.where(self.space.contains(x_0), 0.0, -torch.inf)",
            "pass",
        ),
        (
            "core/test_laws_exactness.py::test_every_constraint_is_exact_on_a_parallel_process[all-tied]",
        ),
    ),
    Mutant(
        "tie-weighs-one",
        "a tied block is weighed by the letter of one of its members",
        edit(
            "core/discrete",
            "log_q = torch.where(changed, letters, 0.0).sum(-1)",
            "first = changed & (changed.cumsum(-1) == 1)\n"
            "        log_q = torch.where(first, letters, 0.0).sum(-1)",
        ),
        ("core/test_laws_exactness.py::test_every_constraint_is_exact[tie]",),
    ),
    Mutant(
        "tie-looks-at-one",
        "the look-ahead of a tied group takes the law of one of its members",
        edit(
            "space/units",
            "law.index_add_(2, of, log_pi)",
            "law = log_pi.index_select(2, self.leader)",
        ),
        ("space/test_space.py::test_every_look_ahead_is_enumeration_or_says_that_it_is_not",),
    ),
    Mutant(
        "impossible-is-final",
        "a letter that is impossible now counts as impossible for good: h is 0 where p* has mass",
        edit(
            "space/impossible",
            " if bool(never.any()) else (log_p, None)",
            " if False else (log_p, None)",
        ),
        (
            "space/test_laws_impossible.py::test_many_random_rules_are_exact_together[random]",
            "space/test_laws_impossible.py::test_the_look_ahead_is_positive_wherever_the_target_has_mass",
        ),
    ),
    Mutant(
        "padding-counts",
        "on islands of different length a constraint counts what stands beyond the end",
        edit("core/look", "            space = space.within(mask)\n", "            pass\n"),
        (
            "space/test_laws_lengths.py::test_every_length_has_the_target_it_has_alone[budget-random]",
            "space/test_laws_lengths.py::test_every_length_has_the_target_it_has_alone[run-parallel]",
        ),
    ),
    Mutant(
        "run-across-chains",
        "runs and patterns go on from the end of one chain into the next",
        edit(
            "space/positions",
            "lambda i: self.named.chains[i]",
            "lambda i: 0",
        ),
        ("space/test_space.py::test_the_verdict_is_the_one_of_enumeration",),
    ),
    Mutant(
        "single-precision-cumsum",
        "systematic resampling sums weights in float32 and lets a point fall behind the last one",
        edit("core/resampling", "total = w.cumsum(-1)\n", "total = w.float().cumsum(-1).double()\n")
        + edit(
            "core/resampling",
            "    index = torch.searchsorted(total, points * total[:, -1:], right=True)\n",
            "    index = torch.searchsorted(total, points.contiguous(), right=True)\n",
        )
        + edit(
            "core/resampling",
            "return torch.minimum(index, last)",
            "return index.clamp(max=w.shape[-1] - 1)",
        ),
        ("core/test_resampling.py::test_a_cumulative_sum_below_one_revives_nobody",),
    ),
    Mutant(
        "potential-counted-twice",
        "the cumulative potential is added at every step and never divided out",
        edit(
            "core/smc",
            "log_w=base + log_twist - state.log_twist,",
            "log_w=base + log_twist,",
        ),
        (
            "core/test_laws_mutants.py::test_potentials_telescope",
            TELESCOPE,
            f"{EXACT}[masked-random-smc]",
        ),
    ),
    Mutant(
        "max-potential-kept",
        "max and sum potentials are still in the weight at the end: the reward counts on top",
        edit(
            "core/smc",
            "torch.ones_like(state.lam), look.value, state.memo",
            "torch.ones_like(state.lam), look.value + state.log_twist, state.memo",
        ),
        ("core/test_laws_mutants.py::test_potentials_telescope",),
    ),
    Mutant(
        "guided-without-weights",
        "the proposal is tilted and log p − log q is left out of the weight",
        edit(
            "core/smc",
            "        return x_s, shift\n",
            "        return x_s, torch.zeros_like(shift)\n",
        ),
        (TELESCOPE, f"{EXACT}[masked-random-tds]"),
    ),
    Mutant(
        "waiting-for-each-other",
        "lam waits below one effective sample size and resampling below another: neither moves",
        edit("core/tempering", "if ess_below < tempering.ess:", "if False:"),
        ("core/test_tempering.py::test_tempering_and_resampling_may_not_wait_for_each_other",),
    ),
    Mutant(
        "coarse-lam",
        "lam is known to 2^-10 of its whole range, so that at a low temperature it is 0",
        edit("core/tempering", "*(2.0**-k for k in range(4, 65))", "*(2.0**-k for k in (4, 10))"),
        ("core/test_tempering.py::test_adaptive_moves_at_any_temperature",),
    ),
    Mutant(
        "half-a-soft-value",
        "the linearized value forgets what the average letter gives already",
        edit("core/look", "return gain - mean, guide, score", "return gain, guide, score"),
        ("core/test_laws_linear.py::test_all_is_known_at_every_step",),
    ),
    Mutant(
        "tied-letters-count-twice",
        "a tied group is tilted once for each of its positions",
        edit("core/look", "score = score / size[:, None]", "score = score * 1.0"),
        ("core/test_laws_linear.py::test_every_weight_is_z",),
    ),
    Mutant(
        "invisible-tails",
        "a proposal is as sure as its look-ahead and its gradient: what they miss is never drawn",
        edit("core/smc", "q if q is p else defended(q, wide, self.defense / n)", "q"),
        (
            f"{TAILS}[sure look-ahead-patterns-random]",
            f"{TAILS}[sure gradient-letters-parallel]",
        ),
    ),
    Mutant(
        "sure-letters",
        "a parallel reveal mixes what it reveals, and not the letters that the look-ahead weighs",
        edit("space/restrict", "wide=more[..., :v], share=share)", "wide=None, share=share)"),
        (f"{TAILS}[sure look-ahead-patterns-parallel]",),
    ),
    Mutant(
        "mixture-weighed-as-one",
        "what a defended proposal draws is weighed as if it were not mixed",
        edit(
            "core/proposal",
            "torch.where(dead, -torch.inf, self._mixed(log_q, x_s))",
            "torch.where(dead, -torch.inf, log_q)",
        ),
        ("core/test_laws_tails.py::test_any_defense_is_exact[random]",),
    ),
    Mutant(
        "old-discount",
        "an unchanged particle keeps the look-ahead discounted by the time of its last look",
        edit(
            "core/look",
            "known.log_h * ((1.0 - left * t) / (1.0 - left * then))",
            "known.log_h",
        ),
        (
            "core/test_laws_exactness.py::test_skipping_unchanged_particles_changes_nothing_but_rounding[budget-1]",
            "core/test_laws_exactness.py::test_skipping_unchanged_particles_changes_nothing_but_rounding[all]",
        ),
    ),
    Mutant(
        "fixed-letters-masked",
        "the forward process masks what a space fixes, so that too few steps are left",
        edit(
            "core/discrete",
            "free = self.unknown(x_T if space is None else space.start(x_T))",
            "free = self.unknown(x_T)",
        ),
        (
            "core/test_laws_exactness.py::test_what_is_corrupted_can_be_refined_at_every_step[random-fixed]",
            "core/test_laws_exactness.py::test_what_is_corrupted_can_be_refined_at_every_step[parallel-all]",
        ),
    ),
    Mutant(
        "kept-child-drawn",
        "in a conditional sweep the child that goes on is drawn for the kept path, too",
        edit("core/selection", "            pick[:, 0] = 0\n", "            pass\n"),
        (
            "core/test_laws_exactness.py::test_a_conditional_sweep_leaves_the_target_invariant[masked-parallel-nested]",
        ),
    ),
    Mutant(
        "ancestor-by-weight-alone",
        "the new ancestor of a kept path is drawn without taking its twist and look-ahead out",
        edit(
            "core/gibbs",
            "p.log_w - p.log_twist - p.log_h + kernel.log_prob(ahead)",
            "p.log_w + kernel.log_prob(ahead)",
        ),
        (
            "methods/test_particle_gibbs.py::test_the_target_is_stationary[uniform]",
            "methods/test_particle_gibbs.py::test_the_target_is_stationary[uniform-space]",
        ),
    ),
    Mutant(
        "ancestor-without-noise",
        "particles are resampled, and a kept path draws an ancestor, where a step has no noise",
        edit(
            "core/selection",
            " or (self.process is not None and still(self.process, particles))",
            "",
        ),
        (
            "methods/test_particle_gibbs.py::test_the_target_is_stationary[gaussian]",
            "core/test_gaussian.py::test_no_design_is_copied_where_no_noise_parts_copies",
        ),
    ),
    Mutant(
        "children-without-noise",
        "the best of K·M finished designs are copies, as no noise parts children in the last step",
        edit("core/selection", "branch == 1 or still(process, particles)", "branch == 1"),
        ("core/test_gaussian.py::test_no_design_is_copied_where_no_noise_parts_copies",),
    ),
    Mutant(
        "children-summed",
        "nested importance sampling keeps the sum of the children's weights, not their mean",
        edit(
            "core/selection",
            "log_w=log_mean_exp(log_w) if self.weigh",
            "log_w=torch.logsumexp(log_w, -1) if self.weigh",
        ),
        (
            "core/test_particles.py::test_one_child_keeps_each_parent_and_the_mean_weight",
            f"{EXACT}[masked-random-nested_is]",
        ),
    ),
    Mutant(
        "state-without-weight",
        "a state's weight is forgotten where a chain computes one position a step",
        edit(
            "core/states",
            "told.append(self.states[k].weight * logits)",
            "told.append(logits)",
        ),
        ("core/test_states.py::test_a_position_a_step_draws_what_the_loop_draws",),
    ),
    Mutant(
        "state-seen-elsewhere",
        "a state is told the letters without where their positions are in it",
        edit("core/states", "full[..., at[there]] =", "full[..., there.nonzero()[:, 0]] ="),
        (
            "core/test_states.py::test_a_state_with_letters_of_its_own_and_its_positions_elsewhere",
            "core/test_states.py::test_states_that_remember_have_positions_elsewhere_too",
        ),
    ),
    Mutant(
        "states-without-memory",
        "the order in which letters came is forgotten where there are several states",
        edit("core/states", " if before is None else before.parts", ""),
        ("core/test_states.py::test_two_states_are_exact[remembering-tds-free]",),
    ),
)


def copy(folder: Path) -> Path:
    """Lay the three packages and the tests out as they are installed; return the site folder."""
    site = folder / "site"
    ignore = shutil.ignore_patterns("__pycache__", ".*")
    shutil.copytree(ROOT / "seqalign", site / "seqalign", ignore=ignore)
    for name in ("rewards", "models"):
        shutil.copytree(ROOT / name, site / "seqalign" / name, ignore=ignore)
    shutil.copytree(ROOT / "tests", folder / "tests", ignore=ignore)
    shutil.copy(ROOT / "pyproject.toml", folder)
    (site / "mutant_plugin.py").write_text(PLUGIN)
    return site


def mutate(site: Path, mutant: Mutant) -> None:
    """Apply the edits of a mutant.

    Raises:
        SystemExit: a text is gone or ambiguous.
    """
    for one in mutant.edits:
        path = site / one.file
        text = path.read_text()
        if text.count(one.old) != 1:
            raise SystemExit(
                f"mutant is stale: {mutant.name}: {one.file} holds this text {text.count(one.old)} "
                f"times, not once:\n{one.old}"
            )
        path.write_text(text.replace(one.old, one.new))


def laws(folder: Path, site: Path, killers: list[str], first: bool) -> tuple[dict, str]:
    """Run laws in a copy; return {failed, ran} and the output."""
    report = folder / "report.json"
    env = os.environ | {
        "PYTHONPATH": str(site),
        "PYTHONDONTWRITEBYTECODE": "1",
        "MUTANT_SITE": str(site.resolve()),
        "MUTANT_REPORT": str(report),
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
    }
    command = [sys.executable, "-m", "pytest", "-p", "mutant_plugin", "-p", "no:cacheprovider"]
    command += ["--hypothesis-seed=0", "--tb=short", *(["-x"] if first else [])]
    command += [f"tests/{k}" for k in killers]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    if not report.exists():
        raise SystemExit(f"pytest did not run:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
    return json.loads(report.read_text()), done.stdout


def trial(mutant: Mutant, every: bool = False) -> tuple[str, str, float]:
    """Return the verdict on a mutant, the law that spoke, and the seconds.

    With `every`, each of its laws must fail, not only the first.
    """
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mutant-") as name:
        folder = Path(name)
        site = copy(folder)
        mutate(site, mutant)
        report, _ = laws(folder, site, list(mutant.killers), first=not every)
    seconds = time.monotonic() - begin
    if not report["failed"]:
        return "SURVIVED", "", seconds
    failed = [law.removeprefix("tests/") for law, _ in report["failed"]]
    silent = [k for k in mutant.killers if not any(law.startswith(k) for law in failed)]
    if every and silent:
        return "SURVIVED", f"unnoticed by {', '.join(silent)}", seconds
    law, kinds = failed[0], report["failed"][0][1]
    if not set(kinds) <= ASSERTIONS:
        return f"BROKEN ({', '.join(kinds)})", law, seconds
    return "killed", law, seconds


def main(names: list[str]) -> int:
    """Try the mutants; return the exit code."""
    every = "--every" in names
    names = [n for n in names if n != "--every"]
    chosen = [m for m in MUTANTS if not names or m.name in names]
    unknown = set(names) - {m.name for m in MUTANTS}
    if unknown:
        print(f"No mutant is called {sorted(unknown)}; there are {[m.name for m in MUTANTS]}.")
        return 2
    with tempfile.TemporaryDirectory(prefix="mutant-") as name:
        folder = Path(name)
        site = copy(folder)
        for mutant in chosen:
            for one in mutant.edits:
                if (site / one.file).read_text().count(one.old) != 1:
                    print(f"mutant is stale: {mutant.name}: {one.file}: {one.old!r}")
                    return 1
        killers = sorted({k for m in chosen for k in m.killers})
        print(
            f"{len(chosen)} mutants, {len(killers)} laws; first without any mutation ...",
            flush=True,
        )
        report, output = laws(folder, site, killers, first=False)
        if report["failed"] or not report["ran"]:
            print(output[-4000:])
            print("These laws fail on the unmutated core; mend that first.")
            return 1
    width = max(len(m.name) for m in chosen)
    failures = 0
    with ThreadPoolExecutor(WORKERS) as pool:
        for mutant, (verdict, law, seconds) in zip(
            chosen, pool.map(lambda m: trial(m, every), chosen), strict=True
        ):
            failures += verdict != "killed"
            print(f"{verdict:9} {mutant.name:{width}} {seconds:5.1f} s  {mutant.bug}")
            print(f"{'':9} {'':{width}}          {law}", flush=True)
    print(f"{len(chosen) - failures} of {len(chosen)} mutants killed")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
