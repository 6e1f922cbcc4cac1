"""`precedent probe`: train a linear probe on an export, and test it on patients that it has not seen.

precedent probe embeddings/ --out probe/ --findings 'Edema,Pleural Effusion'
"""

from dataclasses import replace
from pathlib import Path

import click
import numpy as np

from encoder.findings.calibration import Method, operating_points
from encoder.findings.logistic import ClassWeight
from encoder.findings.probe import LinearProbe
from index.errors import StudiesError
from index.judging.bootstrap import patient_draws
from index.table.splits import (
    OFFICIAL,
    Rows,
    parts_of,
    require_disjoint_patients,
    split_by_patient,
)
from scripts.options.labelled_exports import Embedded, Wanted, label_options
from scripts.options.places import Anywhere, Here
from scripts.reports.probe import publish
from scripts.reports.probe_scores import Predictions, evidence_of, scored
from scripts.work.learning import INNER_FOLDS, Learning

SPLIT = {"train": 0.7, "valid": 0.1, "test": 0.2}
_PATH = Here()


@click.command()
@click.argument("embeddings", type=Anywhere())
@click.option("--out", type=_PATH, required=True, help="Folder for the probe, metrics.json and report.html.")
@label_options()
@click.option(
    "--where",
    multiple=True,
    help="Use only studies that pass this filter, e.g. 'Source=nih' or 'age>=18'. Repeatable: all must hold.",
)
@click.option(
    "--test-embeddings", type=Anywhere(), help="Another export to test on; all of EMBEDDINGS is used for training."
)
@click.option("--splits", type=_PATH, help="Split file with the parts train, test and perhaps valid; or official.")
@click.option("--use-split", is_flag=True, help="The same as --splits official: the column split.")
@click.option("--cv", type=click.IntRange(2), help="Cross-validation by patient in this many folds.")
@click.option(
    "--class-weight",
    type=click.Choice(["none", "balanced"]),
    default="none",
    show_default=True,
    help="balanced: present and absent weigh alike.",
)
@click.option(
    "--calibration",
    type=click.Choice(["platt", "temperature", "none"]),
    default="platt",
    show_default=True,
    help="How probabilities are calibrated.",
)
@click.option(
    "--draws", type=click.IntRange(500), default=1000, show_default=True, help="Bootstrap samples for the intervals."
)
@click.option(
    "--seed", type=int, default=0, show_default=True, help="Seed of the bootstrap; changes the intervals only."
)
@click.option(
    "--split-seed",
    type=int,
    default=0,
    show_default=True,
    help="Seed by which patients are assigned to parts and folds.",
)
@click.option("--json", "json_wanted", is_flag=True, help="Print the figures as JSON.")
def command(
    embeddings: Path,
    out: Path,
    where: tuple[str, ...],
    findings: str | None,
    classes: tuple[str, ...],
    policy: str,
    blank: str,
    test_embeddings: Path | None,
    splits: Path | None,
    use_split: bool,
    cv: int | None,
    class_weight: ClassWeight,
    calibration: Method,
    draws: int,
    seed: int,
    split_seed: int,
    json_wanted: bool,
) -> None:
    """Train a linear probe (logistic regression) on the export EMBEDDINGS and report how good it is.

    \b
    precedent probe embeddings/ --out probe/ --class normal:'No Finding=1' --class ill:'No Finding=0'
    """
    if sum(map(bool, (test_embeddings, splits, use_split, cv))) > 1:
        raise click.UsageError("give one of --test-embeddings, --splits, --use-split and --cv")
    splits = Path(OFFICIAL) if use_split else splits
    wanted = Wanted.parse(findings, classes, policy, blank)
    learning = Learning(class_weight, calibration, split_seed)
    export = Embedded.load([embeddings, *([test_embeddings] if test_embeddings else [])]).where(where)
    if cv:
        probe, predicted, how = _cross_validated(export, wanted, learning, cv)
    else:
        parts, how = _parts(export, wanted, learning, test_embeddings, splits)
        require_disjoint_patients(export.patients, parts)
        probe = learning.probe(export, wanted, parts["train"], parts["valid"])
        predicted = Predictions.empty(export, wanted).filled(probe, parts["test"], 0)
    judged = predicted.judged()
    figures = scored(judged, probe, patient_draws(judged.patients, draws, seed))
    protocol = [
        wanted.sentence(),
        how,
        *export.patients_sentence(),
        *([f"only studies of which {' and '.join(where)} holds"] if where else []),
        f"class weight {class_weight}, calibration {calibration}, strength by {INNER_FOLDS} inner folds of patients",
        f"95 % intervals by bootstrap over the judged patients: {draws} draws, seed {seed}",
    ]
    replace(probe, evidence=evidence_of(figures, probe)).save(out)
    facts = {"fingerprint": export.fingerprint, "warning": export.warning}
    publish(out, facts, protocol, figures, judged, as_json=json_wanted)


def _cross_validated(
    export: Embedded, wanted: Wanted, learning: Learning, n: int
) -> tuple[LinearProbe, Predictions, str]:
    """Return a probe of all patients, and what probes of the other folds say of each fold."""
    predicted = learning.judged_in_folds(export, wanted, n)
    every = np.arange(len(export.ids))
    probe = learning.probe(export, wanted, *learning.carved(export, wanted, every))
    how = f"judged in {n} folds by patient; the probe that is saved is trained on all patients, its thresholds are set "
    return _with_points(probe, predicted), predicted, how + "on what the folds say of all"


def _with_points(probe: LinearProbe, predicted: Predictions) -> LinearProbe:
    """Return a probe with the thresholds that all studies set, each judged by a probe that has not seen its patient."""
    judged = {name: predicted.of(predicted.names.index(name))[1:] for name in probe.findings}
    points = {name: operating_points(*outcomes) for name, outcomes in judged.items()}
    return replace(
        probe,
        points={name: chosen for name, chosen in points.items() if chosen is not None},
        set_on={name: (int((labels == 1).sum()), int((labels == 0).sum())) for name, (_, labels) in judged.items()},
    )


def _parts(
    export: Embedded, wanted: Wanted, learning: Learning, test_embeddings: Path | None, splits: Path | None
) -> tuple[dict[str, Rows], str]:
    """Return the rows of train, valid and test, and where they come from in words."""
    if test_embeddings:
        test = np.isin(export.ids, Embedded.load([test_embeddings]).ids)
        parts, source = {"train": np.flatnonzero(~test), "test": np.flatnonzero(test)}, "tested on another export"
    elif splits:
        parts = parts_of(splits, export.studies)
        source = "split by the column 'split'" if str(splits) == OFFICIAL else "split by file"
    else:
        parts = split_by_patient(export.patients, SPLIT, learning.split_seed, wanted.targets(export.studies))
        source = f"split by patient, seed {learning.split_seed}"
    for name in ("train", "test"):
        if not len(parts.get(name, ())):
            raise StudiesError(f"expected studies of the part {name!r}, got none; name it in the split")
    if not len(parts.get("valid", ())):
        parts["train"], parts["valid"] = learning.carved(export, wanted, parts["train"])
    patients = np.asarray(export.patients)
    counts = (f"{name} {len(rows):,} of {len(set(patients[rows])):,} patients" for name, rows in parts.items())
    return {name: parts[name] for name in SPLIT}, f"{source}: {', '.join(counts)}"
