"""Draws of patients, and intervals against the same draws taken by loops."""

import numpy as np
import pytest

from index.judging.bootstrap import estimates, patient_draws

PATIENTS = [f"p{number}" for number in (3, 1, 3, 2, 1, 3, 4)]


def test_a_draw_takes_whole_patients_and_as_many_as_there_are() -> None:
    draws = patient_draws(PATIENTS, 300, 0)
    assert (draws[0] == 1).all()
    for draw in draws:
        counts = {
            patient: {int(draw[row]) for row, one in enumerate(PATIENTS) if one == patient} for patient in PATIENTS
        }
        assert all(len(found) == 1 for found in counts.values())
        assert sum(found.pop() for found in counts.values()) == 4
    assert draws[1:].mean() == pytest.approx(1, abs=0.1)


def test_an_interval_is_that_of_means_over_the_patients_drawn(rng: np.random.Generator) -> None:
    patients = [f"p{number}" for number in rng.integers(0, 30, size=100)]
    values = rng.normal(size=100)
    values[::9] = np.nan
    draws = patient_draws(patients, 400, 5)
    means = []
    for draw in draws[1:]:
        rows = [row for row in range(100) for _ in range(int(draw[row])) if not np.isnan(values[row])]
        means.append(np.mean(values[rows]))
    (one,) = estimates([values], [np.zeros(100)], draws)
    assert (one.low, one.high) == pytest.approx(tuple(np.percentile(means, (2.5, 97.5))), abs=1e-5)
    assert one.value == pytest.approx(np.nanmean(values))
    assert (one.queries, one.left_out) == (88, 12)


def test_studies_that_are_alike_within_a_patient_widen_the_interval(rng: np.random.Generator) -> None:
    values = np.repeat(rng.normal(size=50), 8)
    by_patient, by_study = (
        estimates([values], [values], patient_draws([str(one) for one in ids], 500, 0))[0]
        for ids in (np.arange(400) // 8, np.arange(400))
    )
    assert by_patient.high - by_patient.low > 2 * (by_study.high - by_study.low)
