"""How a linear probe is learnt from an export."""

from dataclasses import dataclass, replace

import numpy as np

from encoder.findings.calibration import Method
from encoder.findings.logistic import ClassWeight
from encoder.findings.probe import LinearProbe
from index.table.splits import folds_by_patient
from index.vectors import Rows
from scripts.options.labelled_exports import Embedded, Wanted

INNER_FOLDS = 3


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
