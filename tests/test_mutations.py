"""Break the package once, in a copy, and see a test go red.

A mutant is a copy of the package in which one piece of text is replaced; the tests named beside it
must then fail, by an assertion and not by a crash. Where a mutant's text is gone because the code
changed, this says so: find the mistake's new place, or the mistake that became possible instead.
"""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

import crossent

SOURCE = Path(crossent.__file__).parent
TESTS = Path(__file__).parent
CASES = "test_laws.py::test_value_and_gradient_are_true"
WIDER = "test_laws.py::test_classes_at_minus_infinity_change_nothing"
SEEN = ("AssertionError", "E   assert ", "DID NOT RAISE")
LIMIT = 120  # seconds for a mutant, which may have to compile


@dataclass(frozen=True)
class Mutant:
    """A mistake: in a file, one text in place of another, and the test that must see it."""

    mistake: str
    file: str
    old: str
    new: str
    test: str


MUTANTS = (
    Mutant(
        "the sign of the target's gradient",
        "kernels/narrow_tile.py",
        "zero - others[i]",
        "zero + others[i]",
        f"{CASES}[cross_entropy-indices]",
    ),
    Mutant(
        "the sign of the target's gradient, more classes",
        "kernels/hard_tile.py",
        "0.0 - others[i] * factor[i]",
        "0.0 + others[i] * factor[i]",
        f"{WIDER}[cross_entropy-indices-12]",
    ),
    Mutant(
        "the tail: p - 1 for the target of a confident row",
        "kernels/hard_tile.py",
        "0.0 - others[i] * factor[i]",
        "((1.0 - others[i]) - 1.0) * factor[i]",
        f"{WIDER}[cross_entropy-right and certain-12]",
    ),
    Mutant(
        "the limit of a row with +inf",
        "kernels/narrow_tile.py",
        "holds_infinity(m[:count])",
        "count < 0",
        f"{CASES}[cross_entropy-+inf, right]",
    ),
    Mutant(
        "+inf beside a row of NaN",
        "kernels/tile.py",
        "return found > 0",
        "return largest(maxima) == np.inf",
        "test_laws.py::test_nan_in_a_row_that_takes_no_part_leaves_infinity_in_another"
        "[float32-9-{}]",
    ),
    Mutant(
        "the sum of what scores are below the maximum, within float32",
        "kernels/mass_row.py",
        "SMALLER = 2.0**-10",
        "SMALLER = 1.0",
        "test_laws.py::test_scores_masked_by_the_least_float32_cost_what_they_cost"
        "[smoothed-193-0.0]",
    ),
    Mutant(
        "a row's weight",
        "kernels/long_rows.py",
        "add_exactly(sums[0], sums[2], weight * loss)",
        "add_exactly(sums[0], sums[2], loss)",
        f"{CASES}[cross_entropy-long rows, weighted]",
    ),
    Mutant(
        "what the difference of two scores rounds away",
        "kernels/elementary.py",
        "return two_sum(x, -m)",
        "return x - m, x - x",
        "test_accuracy.py::test_loss_and_gradient[float32-10-cross_entropy-hard]",
    ),
    Mutant(
        "what the difference of two classes rounds away",
        "kernels/elementary.py",
        "select(d > zero, -e, e)",
        "zero",
        "test_accuracy.py::test_loss_and_gradient[float32-2-cross_entropy-hard]",
    ),
    Mutant(
        "that float64 has no room for a product of many large sums",
        "kernels/tile.py",
        "if tile.shape[0] <= FEW else",
        "if tile.shape[0] <= LINES else",
        "test_accuracy.py::test_rows_that_are_all_equal[float32-192]",
    ),
    Mutant(
        "that shares which are all tiny make bad sums",
        "kernels/tile.py",
        "if largest(share[:count]) < SMALL:",
        "if largest(share[:count]) < 0.0:",
        "test_accuracy.py::test_many_rows_deep_in_the_tail[3]",
    ),
    Mutant(
        "the raising of sums of subnormals",
        "kernels/elementary.py",
        "return select(d < low, F32(0.0), exp_of_rest32(r) * power_at_end(t))",
        "return select(d < low, F32(0.0), exp_of_rest32(r) * power_at_end(t)"
        " * F32(2.0**-64) * F32(2.0**64))",
        "test_elementary.py::test_exp_below_a_maximum[float32-None-0.0]",
    ),
    Mutant(
        "that a maximum far from 0 is subtracted",
        "kernels/elementary.py",
        "select(far, m, F32(0.0))",
        "F32(0.0)",
        "test_accuracy.py::test_rows_far_from_zero[200-1000000.0-1.0]",
    ),
    Mutant(
        "how much smoothing gives every class",
        "numpy.py",
        "each * (alpha / classes)",
        "each * alpha",
        f"{CASES}[cross_entropy-smoothed]",
    ),
    Mutant(
        "that the winner is summed apart",
        "kernels/mass_tile.py",
        "scores[excluded[i], U64(i)] = -np.inf",
        "scores[excluded[i], U64(i)] = m[i]",
        f"{CASES}[cross_entropy-tied probabilities]",
    ),
    Mutant(
        "the winner's own factor",
        "kernels/rows.py",
        "(rest + pull) * (own * share) - own_mass * (others * share)",
        "(rest + own_mass + pull) * (own * share) - own_mass",
        f"{CASES}[cross_entropy-right and certain, softcap]",
    ),
    Mutant(
        "the sums of all tiles but the last",
        "kernels/mass_tile.py",
        "lanes[OTHERS : LOSS if scores.itemsize == 8 else OTHERS + TOTAL] = 0.0",
        "lanes[OTHERS:] = 0.0",
        "test_laws.py::test_a_row_does_not_depend_on_where_it_stands[smooth-float64-10]",
    ),
    Mutant(
        "the sums of all capped tiles but the last",
        "kernels/mass_tile.py",
        "LOSS if scores.itemsize == 8",
        "LOSS if tile.itemsize == 8",
        "test_laws.py::test_a_row_does_not_depend_on_where_it_stands[capped-float32-10]",
    ),
    Mutant(
        "the fold of a long row's lanes",
        "kernels/strips.py",
        "accumulator[i] += accumulator[width + i]",
        "accumulator[i] += 0.0",
        f"{CASES}[softmax_binary_cross_entropy-long rows]",
    ),
    Mutant(
        "what the winner adds to the two-term gradient of the others",
        "kernels/two_term.py",
        "p * (pull[i] - own) - far)",
        "p * (pull[i] - own))",
        f"{CASES}[softmax_binary_cross_entropy-wrong and certain]",
    ),
    Mutant(
        "the product in a sum of logarithms",
        "kernels/sums.py",
        "return fma(a, b, a + b)",
        "return a + b",
        "test_accuracy.py::test_outputs_that_are_all_equal[float32]",
    ),
    Mutant(
        "what sharpness loses as a float32",
        "kernels/elementary.py",
        "fma(d, rest, fma(d, near, -product))",
        "fma(d, near, -product)",
        "test_elementary.py::test_exp_below_a_maximum[float32-1000.3--77.7]",
    ),
    Mutant(
        "that a z-loss of 0 adds nothing to scores beyond the type",
        "kernels/rows.py",
        "select(z_loss != 0.0, z_loss * lse, 0.0)",
        "z_loss * lse",
        "test_accuracy.py::test_differences_wider_than_the_type[float64-300-0.25]",
    ),
    Mutant(
        "sigma' in the quadratic cost",
        "kernels/sigmoid.py",
        "r * up * down",
        "r * up",
        f"{CASES}[quadratic_cost-bits]",
    ),
    Mutant(
        "which sum batchmean divides by",
        "numpy.py",
        'problem.samples if reduction == "batchmean"',
        'problem.weight if reduction == "batchmean"',
        f"{CASES}[binary_cross_entropy-weighted, batchmean]",
    ),
    Mutant(
        "the rows that are ignored",
        "kernels/scan.py",
        "select(taken, row_weight[i] if row_weight.size else 1.0, 0.0)",
        "select(taken, row_weight[i] if row_weight.size else 1.0, 1.0)",
        f"{CASES}[cross_entropy-ignored]",
    ),
    Mutant(
        "where out and the logits overlap",
        "numpy.py",
        "out.ctypes.data != logits.ctypes.data",
        "False",
        "test_laws.py::test_out_may_overlap_the_logits_in_any_way",
    ),
    Mutant(
        "the z-loss in the mean of sums",
        "sums.py",
        "(self.sum + self.z_loss) / self.weight",
        "self.sum / self.weight",
        "test_semantics.py::test_z_loss_is_added_to_the_value_and_reported_apart",
    ),
    Mutant(
        "the curvature of the quadratic cost",
        "plain.py",
        "error * (down - up)",
        "error * (up - down)",
        "test_laws.py::test_hessian_is_symmetric_and_the_slope_of_the_gradient",
    ),
    Mutant(
        "the winner that a Hessian product is taken relative to",
        "kernels/hessian.py",
        "if shares[j] > shares[winner]",
        "if shares[j] < shares[winner]",
        "test_laws.py::test_hessian_keeps_its_tails",
    ),
    Mutant(
        "the off-diagonal terms of the softmax Jacobian",
        "reference.py",
        "u - p * u.sum(axis=-1, keepdims=True)",
        "p - c",
        "test_reference.py::test_product_of_the_links_is_the_simplified_gradient",
    ),
    Mutant(
        "the upper bound of an option",
        "checks.py",
        "and value <= high",
        "",
        "test_errors.py::test_bad_input",
    ),
    Mutant(
        "the bound on what a filter drops",
        "linear_layer.py",
        "np.sqrt(total * top) * _lengths(x)",
        "total * top * _lengths(x)",
        "test_linear.py::test_what_a_filter_drops_is_within_its_bound",
    ),
    Mutant(
        "the parts of a weight that is widened part by part",
        "linear_layer.py",
        "multiply(slope[:, part], w, out, add=True)",
        "multiply(slope[:, part], w, out)",
        "test_linear.py::test_a_half_types_weight_is_widened_part_by_part",
    ),
    Mutant(
        "what comes from above the loss of a linear head",
        "torch_linear.py",
        "scaled(gradient, upstream).to(like.dtype)",
        "gradient.to(like.dtype)",
        "regressions/test_head.py::test_a_loss_that_is_scaled_afterwards",
    ),
)


def run(package: Path, tests: list[str]) -> subprocess.CompletedProcess[str]:
    """Run tests, which pass when nothing is broken, against a package that lies elsewhere."""
    options = ["-q", "-x", "-p", "no:cacheprovider", "--no-header", "--tb=line"]
    return subprocess.run(
        [sys.executable, "-m", "pytest", *options, *(str(TESTS / test) for test in tests)],
        env={**os.environ, "PYTHONPATH": str(package), "NUMBA_CACHE_DIR": ""},
        cwd=TESTS.parent,
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )


def mutate(mutant: Mutant, directory: Path) -> subprocess.CompletedProcess[str]:
    """Return what its test says of a mutant; machine code of whole kernels is kept."""
    compiled = shutil.ignore_patterns("__pycache__" if "kernels" in mutant.file else "")
    shutil.copytree(SOURCE, directory / "crossent", ignore=compiled)
    file = directory / "crossent" / mutant.file
    file.write_text(file.read_text().replace(mutant.old, mutant.new))
    return run(directory, [mutant.test])


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.mistake)
def test_text_to_break_is_there(mutant: Mutant) -> None:
    assert mutant.old in (SOURCE / mutant.file).read_text()


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.mistake)
def test_mistake_is_seen(mutant: Mutant, tmp_path: Path) -> None:
    verdict = mutate(mutant, tmp_path)
    assert verdict.returncode == 1, verdict.stdout[-2000:]
    assert any(word in verdict.stdout for word in SEEN), verdict.stdout[-2000:]
