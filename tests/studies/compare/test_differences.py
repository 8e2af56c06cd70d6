"""Which rows differ from the first: by hand-made records, and through a whole comparison with several
draws.
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from statistics import fmean

import numpy as np
import pytest

from bivlm.eval.records import Record
from bivlm.eval.statistics.intervals import mean_interval
from bivlm.eval.statistics.paired import corrected, geometric_kl_difference, kl_difference, score_difference
from bivlm.studies.compare.differences import with_differences
from bivlm.studies.compare.draws import Measured, merged
from bivlm.studies.compare.result import FULL_PRECISION, Comparison, ComparisonRow
from bivlm.studies.compare.run import _Comparing, compare_presets
from bivlm.studies.compare.table import comparison_markdown, remarks
from bivlm.types import PARTS
from comparing import ASK, PRESETS
from tiny import tiny_samples

N = 40
CLUSTERS = [f"image {number // 2}" for number in range(N)]


def measured(name: str, scores, kls, **changes) -> Measured:
    """One draw: a row with the means of these questions, two about every image."""
    records = tuple(
        Record("", "?", "", ("x",), float(score), image=image, kl=kl, tokens=2, agreement=1.0, greedy=True)
        for score, kl, image in zip(scores, kls, CLUSTERS, strict=True)
    )
    known = [kl for kl in kls if kl is not None]
    row = ComparisonRow(
        name,
        "m",
        PARTS,
        N,
        fmean(scores),
        (0.0, 1.0),
        fmean(known),
        1.0,
        2.0,
        None,
        1000,
        1.0,
        kl_geometric=0.5,
    )
    return Measured(replace(row, **changes), (records,))


def drawn(seed: int, shift: float = 0.0) -> tuple[list[float], list[float]]:
    rng = np.random.default_rng(seed)
    return (rng.random(N) < 0.5 + shift).astype(float).tolist(), rng.lognormal(
        -5 - 8 * shift, 0.5, N
    ).tolist()


def test_rows_are_told_apart_by_the_tests_on_their_questions():
    first, same, better = drawn(4), drawn(6), drawn(2, 0.4)
    rows = with_differences([measured(*one) for one in (("a", *first), ("b", *same), ("c", *better))])
    assert rows[0].against is None
    expected = corrected([score_difference(first[0], other[0], CLUSTERS) for other in (same, better)])
    assert [row.against.accuracy.difference for row in rows[1:]] == expected
    expected = corrected([kl_difference(first[1], other[1], [2] * N, CLUSTERS) for other in (same, better)])
    assert [row.against.kl.difference for row in rows[1:]] == expected
    expected = corrected([geometric_kl_difference(first[1], other[1], CLUSTERS) for other in (same, better)])
    assert [row.against.kl_geometric.difference for row in rows[1:]] == pytest.approx(expected)
    assert rows[2].against.kl.verdict == rows[2].against.kl_geometric.verdict == "better"
    assert {rows[1].against.accuracy.verdict, rows[1].against.kl.verdict} == {"not told apart"}
    assert ComparisonRow.from_dict(json.loads(json.dumps(asdict(rows[2])))) == rows[2]


def test_full_precision_is_compared_in_accuracy_alone():
    full = measured(FULL_PRECISION, *drawn(3), preset=FULL_PRECISION)
    rows = with_differences([full, measured("a", *drawn(4))])
    assert rows[1].against.accuracy is not None
    assert (rows[1].against.kl, rows[1].against.kl_geometric) == (None, None)


def test_questions_without_a_divergence_are_left_out_of_its_test():
    first, second = drawn(5), drawn(6)
    broken = [None, *second[1][1:]]
    rows = with_differences([measured("a", *first), measured("b", second[0], broken)])
    expected = kl_difference(first[1][1:], second[1][1:], [2] * (N - 1), CLUSTERS[1:])
    assert rows[1].against.kl.difference == expected


def test_what_failed_is_compared_with_nothing():
    failed = Measured(ComparisonRow("f", "m", PARTS, failure="too narrow"), ())
    first, second = measured("a", *drawn(7)), measured("b", *drawn(8))
    assert [row.against for row in with_differences([failed, first])] == [None, None]
    rows = with_differences([first, failed, second])
    assert rows[1].against is None
    assert rows[2].against.accuracy.difference.p == score_difference(first.scores, second.scores, CLUSTERS).p


# ---- calibration draws


def test_a_row_of_several_draws_has_their_means():
    draws = [measured("a", *drawn(seed), true_bits=bits) for seed, bits in ((0, 1.0), (1, 2.0), (2, 2.0))]
    found = merged(draws)
    assert found.row.accuracy == pytest.approx(fmean(draw.row.accuracy for draw in draws))
    assert found.row.kl == pytest.approx(fmean(draw.row.kl for draw in draws))
    assert found.row.true_bits == pytest.approx(5 / 3)
    means = np.mean([drawn(seed)[0] for seed in range(3)], axis=0)
    assert found.scores == pytest.approx(means)
    assert found.row.interval == mean_interval(found.scores)
    assert [draw.accuracy for draw in found.row.draws] == [draw.row.accuracy for draw in draws]
    assert len(found.draws) == 3
    assert merged(draws[:1]) is draws[0]


def test_a_draw_that_failed_is_named():
    failed = Measured(ComparisonRow("a", "m", PARTS, failure="no"), ())
    row = merged([measured("a", *drawn(0)), failed]).row
    assert (row.failure, row.accuracy, row.draws) == ("calibration draw 2: no", None, ())


def test_a_difference_that_a_draw_turns_round_does_not_count():
    first = measured("a", *drawn(0))
    strong, turned = drawn(2, 0.4), drawn(3, -0.2)
    steady = merged([measured("b", *strong), measured("b", *strong)])
    unsteady = merged([measured("c", *strong), measured("c", *strong), measured("c", *turned)])
    rows = with_differences([first, steady, unsteady])
    assert rows[1].against.kl.draws.holds
    assert (rows[1].against.kl.verdict, rows[1].against.kl_geometric.verdict) == ("better", "not told apart")
    assert not rows[2].against.kl.draws.holds
    assert rows[2].against.kl.verdict == "not told apart"


def test_the_table_has_columns_for_both():
    first = merged([measured("a", *drawn(0)), measured("a", *drawn(1))])
    rows = with_differences([first, measured("b", *drawn(2, 0.4))])
    found = Comparison(tuple(rows), False, "easy", N, "exact_match", 8, "a machine", "", (), draws=2)
    lines = [line for line in comparison_markdown(found, picture=None).splitlines() if "|" in line]
    head, _, *table = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    cells = [dict(zip(head, line, strict=True)) for line in table]
    assert (cells[0]["accuracy vs 1st"], cells[1]["accuracy vs 1st"]) == ("", "better")
    assert cells[1]["KL vs 1st"] == "better"
    low, high = sorted(draw.accuracy for draw in first.row.draws)
    assert cells[0]["accuracy, draws"] == f"{low:.1%} to {high:.1%}"
    assert cells[1]["accuracy, draws"] == ""
    assert "vs 1st: against a on the same questions, accuracy by sign flips" in remarks(found)[0]
    assert "means over 2 calibration draws" in remarks(found)[0]


def test_presets_that_need_data_alone_are_packed_with_every_draw(source, samples, monkeypatch, tmp_path):
    full = measured(FULL_PRECISION, *drawn(0), preset=FULL_PRECISION)
    runs = []

    def run(self, recipe, parts, draw, reference):
        runs.append((recipe.name, draw, len(self.draws[draw - 1])))
        return measured(recipe.name, *drawn(draw))

    monkeypatch.setattr(_Comparing, "full_precision", lambda self: (full, None, "exact_match"))
    monkeypatch.setattr(_Comparing, "run", run)
    draws = {"calibration": tiny_samples(1), "further_draws": [tiny_samples(2), tiny_samples(3)]}
    found = compare_presets(source, [PRESETS[0], "bivlm"], tmp_path, samples=samples, settings=ASK, **draws)
    assert runs == [(PRESETS[0], 1, 1), ("bivlm", 1, 1), ("bivlm", 2, 2), ("bivlm", 3, 3)]
    assert [len(row.draws) for row in found.rows] == [3, 0, 0]
    assert found.rows[0].accuracy == pytest.approx(fmean(fmean(drawn(draw)[0]) for draw in (1, 2, 3)))
    assert found.rows[1].against.accuracy.draws is not None


@pytest.mark.slow
def test_every_draw_is_packed_and_kept(source, count, tmp_path, samples):
    """A preset that needs no data is packed once, and what is measured is not packed again."""
    first, second = tiny_samples(2), tiny_samples(4)[2:]
    options = {"samples": samples, "calibration": first, "further_draws": [second], "parts": ["projector"]}
    presets, out = [PRESETS[0], "bivlm"], tmp_path / "out"
    found = compare_presets(source, presets, out, settings=ASK, **options)
    assert count == {"run": 3, "collect_reference": 1}
    assert [path.name for path in out.glob("runs/*draw2.json")] == ["bivlm@projector@draw2.json"]
    row = next(row for row in found.rows if row.preset == "bivlm")
    assert len(row.draws) == found.draws == 2
    assert row.kl == pytest.approx(fmean(draw.kl for draw in row.draws))
    assert compare_presets(source, presets, out, settings=ASK, **options) == found
    assert count["run"] == 3
