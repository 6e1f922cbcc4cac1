"""A recipe judged in folds: an encoder and a probe a fold, each on the patients that neither has seen."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from encoder.findings.probe import LinearProbe
from encoder.training.trainer import Trainer
from index.judging.bootstrap import patient_draws
from index.table.splits import folds_by_patient
from scripts.options.labelled_exports import Embedded
from scripts.reports.probe import publish
from scripts.reports.probe_scores import Predictions, evidence_of, scored
from scripts.work.learning import Learning
from scripts.work.material import Material, Parts

DRAWS = 1000


def deal(material: Material) -> list[Parts]:
    """Return train, valid and test of each fold; every study with a known label is in one test part.

    Raises:
        StudiesError, EncoderError: too few patients or labels for each fold to learn and to choose by.
    """
    known, run = material.known, material.recipe.run
    patients = [material.patients[row] for row in known]
    folds = folds_by_patient(patients, run.folds, run.seed, material.targets[known])
    shares = {"train": 1 - run.valid_fraction, "valid": run.valid_fraction}
    dealt = [{**material.parted(np.setdiff1d(known, known[fold]), shares), "test": known[fold]} for fold in folds]
    for parts in dealt:
        material.studies_of(parts)  # a fold that teaches nothing is refused before the first one is learnt from
    return dealt


class Judged:
    """What probes on the encoders of all folds say of the studies that were left out of each."""

    def __init__(self, material: Material) -> None:
        self._material = material
        self._learning = Learning("none", "platt", material.recipe.run.seed)
        self._predicted: Predictions | None = None
        self._probe: LinearProbe | None = None
        self._folds: list[str] = []

    def add(self, parts: Parts, trainer: Trainer, fingerprint: str) -> LinearProbe:
        """Learn a probe on one fold's encoder, keep what it says of the fold's test part, and return it."""
        material = self._material
        embeddings, _ = trainer.embed(np.arange(material.table.num_rows))
        export = Embedded(material.table, embeddings.numpy(), fingerprint)
        self._probe = self._learning.probe(export, material.wanted, parts["train"], parts["valid"])
        before = self._predicted or Predictions.empty(export, material.wanted)
        self._predicted = replace(before, export=export).filled(self._probe, parts["test"], len(self._folds))
        self._folds.append(fingerprint)
        return self._probe

    def save(self, out: Path, probes: Mapping[Path, LinearProbe], *, as_json: bool) -> None:
        """Print the figures over all folds, write metrics.json and report.html, and give the probes their evidence.

        Args:
            probes: of each fold, by its folder. What all folds show is what is known of each.
        """
        assert self._predicted is not None
        assert self._probe is not None
        judged, material = self._predicted.judged(), self._material
        figures = scored(judged, self._probe, patient_draws(judged.patients, DRAWS, 0))
        protocol = [
            material.wanted.sentence(),
            f"recipe {material.name}: an encoder and a probe for each of {len(self._folds)} folds by patient, "
            f"stratified, seed {material.recipe.run.seed}; thresholds set on each fold's own validation patients",
            f"95 % intervals by bootstrap over the judged patients: {DRAWS} draws, seed 0",
        ]
        for folder, probe in probes.items():
            replace(probe, evidence=evidence_of(figures, probe)).save(folder)
        publish(out, {"fingerprints": self._folds}, protocol, figures, judged, as_json=as_json)
