"""How a linear probe is learnt from an export, and judged in folds of patients."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from encoder.findings.calibration import Method
from encoder.findings.logistic import ClassWeight
from encoder.findings.probe import LinearProbe
from index.table.splits import folds_by_patient, require_disjoint_patients, split_by_patient
from index.vectors import Rows
from scripts.options.labelled_exports import Embedded, Wanted
from scripts.reports.probe_scores import Predictions

INNER_FOLDS = 3
VALID_SHARE = 0.125
"""Share of the learning patients that calibrate, where no part of the split is for that."""


@dataclass(frozen=True)
class Learning:
    """How a probe is learnt."""

    class_weight: ClassWeight
    calibration: Method
    split_seed: int

    def probe(self, export: Embedded, wanted: Wanted, train: Rows, valid: Rows) -> LinearProbe:
        """Return the probe that is learnt from `train` and calibrated on `valid`. Raises EncoderError."""
        names, targets = wanted.names(export.studies), wanted.targets(export.studies)
        patients = [export.patients[row] for row in train]
        folds = np.zeros(len(train), dtype=np.int64)
        for fold, rows in enumerate(folds_by_patient(patients, INNER_FOLDS, self.split_seed, targets[train])):
            folds[rows] = fold
        probe = LinearProbe.fit(
            export.embeddings[train],
            targets[train],
            names,
            folds=folds,
            fingerprint=export.fingerprint,
            class_weight=self.class_weight,
        )
        columns = [names.index(name) for name in probe.findings]
        probe = replace(probe, labels=wanted.labelling.as_object())
        return probe.calibrated(export.embeddings[valid], targets[valid][:, columns], self.calibration)

    def judged_in_folds(self, export: Embedded, wanted: Wanted, n: int) -> Predictions:
        """Return what probes of the other folds of patients say of each of n. Raises EncoderError, StudiesError."""
        targets, every = wanted.targets(export.studies), np.arange(len(export.ids))
        predicted = Predictions.empty(export, wanted)
        for number, test in enumerate(folds_by_patient(export.patients, n, self.split_seed, targets)):
            train, valid = self.carved(export, wanted, np.setdiff1d(every, test))
            require_disjoint_patients(export.patients, {"train": train, "valid": valid, "test": test})
            predicted = predicted.filled(self.probe(export, wanted, train, valid), test, number)
        return predicted

    def carved(self, export: Embedded, wanted: Wanted, rows: Rows) -> tuple[Rows, Rows]:
        """Return the rows parted by patient into those that teach and those that calibrate."""
        targets = wanted.targets(export.studies.take(rows))
        shares = {"train": 1 - VALID_SHARE, "valid": VALID_SHARE}
        patients = [export.patients[row] for row in rows]
        parts: dict[str, Any] = split_by_patient(patients, shares, self.split_seed, targets)
        return rows[parts["train"]], rows[parts["valid"]]
