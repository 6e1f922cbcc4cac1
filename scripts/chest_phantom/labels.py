"""What a report would say of a study: CheXpert's columns with its blanks, zeros, ones and minus ones."""

import numpy as np

from index.table.studies import FINDINGS
from scripts.chest_phantom.findings import SIMULATED_FINDINGS, Abnormality

UNCERTAIN_SLIGHT, UNCERTAIN_PLAIN = 0.30, 0.04  # chance of -1 for a present finding, severity under 0.25 or not
OMITTED = 0.05  # chance of blank for a present finding
DENIED, UNCERTAIN_ABSENT = 0.35, 0.02  # chance of 0 and of -1 for an absent finding; otherwise blank
_PARENTS = {
    "Enlarged Cardiomediastinum": ("Cardiomegaly",),
    "Lung Opacity": ("Lung Lesion", "Edema", "Consolidation"),
}

Labels = dict[str, int | None]


def draw_labels(abnormalities: tuple[Abnormality, ...], rng: np.random.Generator) -> Labels:
    """Return the 14 labels of one study: 1, 0, -1, or None for blank.

    `No Finding` is 1 exactly where nothing is simulated; such a study has no -1. Parents in CheXpert's hierarchy are
    1 where a child is 1. Columns that cannot be simulated stay blank.
    """
    severity = {abnormality.finding: abnormality.severity for abnormality in abnormalities}
    labels: Labels = dict.fromkeys(FINDINGS)
    for name in SIMULATED_FINDINGS:
        luck = float(rng.random())
        labels[name] = _present(severity[name], luck) if name in severity else _absent(luck, bool(abnormalities))
    for parent, children in _PARENTS.items():
        if any(labels[child] == 1 for child in children):
            labels[parent] = 1
    if not abnormalities:
        labels["No Finding"] = 1
    return labels


def _present(severity: float, luck: float) -> int | None:
    uncertain = UNCERTAIN_SLIGHT if severity < 0.25 else UNCERTAIN_PLAIN
    if luck < uncertain:
        return -1
    return None if luck < uncertain + OMITTED else 1


def _absent(luck: float, abnormal: bool) -> int | None:
    if luck < DENIED:
        return 0
    return -1 if abnormal and luck < DENIED + UNCERTAIN_ABSENT else None
