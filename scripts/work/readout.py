"""How well groups of studies can be told apart by their vectors: a linear probe for each, judged on unseen patients."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from encoder.findings.probe import why_not
from encoder.findings.scores import Interval, interval, ranked_scores
from index.judging.bootstrap import Draws
from index.judging.shortcuts import Attribute
from index.table.labels import LabelPolicy
from index.vectors import Embeddings
from scripts.options.labelled_exports import Embedded, Wanted
from scripts.work.learning import Learning

Areas = npt.NDArray[np.float64]
"""(B + 1,): AUROC, first as it is and then of each bootstrap draw; NaN where a draw has not both outcomes."""
CHANCE = 0.5


@dataclass(frozen=True)
class Readout:
    """How well an attribute is read, as AUROC."""

    groups: dict[str, Interval]
    """Each told from the others; of two one, for the other is the same."""
    auroc: Interval
    """Their mean."""
    floor: Interval | None
    """The same without an encoder, from the films' coarse looks; None where the export has none."""
    above_floor: Interval | None


def read_out(
    export: Embedded,
    attributes: Sequence[Attribute],
    looks: Embeddings | None,
    folds: int,
    seed: int,
    draws: Draws,
) -> dict[str, Readout]:
    """Return by name how well each attribute is read from vectors, and from looks (N, W).

    Raises:
        EncoderError, StudiesError: too few patients for the folds.
    """
    by_vectors = _areas(export, attributes, folds, seed, draws)
    by_looks = None if looks is None else _areas(replace(export, embeddings=looks), attributes, folds, seed, draws)
    readouts = {}
    for attribute in attributes:
        areas = by_vectors[attribute.name]
        whole = np.mean(list(areas.values()), axis=0)
        floor = None if by_looks is None else np.mean(list(by_looks[attribute.name].values()), axis=0)
        readouts[attribute.name] = Readout(
            {group: interval(area) for group, area in areas.items()},
            interval(whole),
            None if floor is None else interval(floor),
            None if floor is None else _signed(whole - floor),
        )
    return readouts


def _areas(
    export: Embedded, attributes: Sequence[Attribute], folds: int, seed: int, draws: Draws
) -> dict[str, dict[str, Areas]]:
    """Return the areas of each group, by attribute; all groups are learnt together."""
    columns: dict[str, npt.NDArray[np.float64]] = {}
    for attribute in attributes:
        for code in range(1 if len(attribute.groups) == 2 else len(attribute.groups)):
            present = np.where(attribute.codes < 0, np.nan, (attribute.codes == code).astype(np.float64))
            columns[_named(attribute, code)] = present
    ids = {name: export.studies[name] for name in ("study_id", "patient_id")}
    labels = {
        name: pa.array(column, pa.float64(), from_pandas=True).cast(pa.int8()) for name, column in columns.items()
    }
    asked = replace(export, studies=pa.table({**ids, **labels}))
    wanted = Wanted(tuple(columns), {}, LabelPolicy("ignore", "ignore"))
    predicted = Learning("none", "none", seed).judged_in_folds(asked, wanted, folds)
    areas: dict[str, dict[str, Areas]] = {attribute.name: {} for attribute in attributes}
    for attribute in attributes:
        for code, group in enumerate(attribute.groups):
            if (name := _named(attribute, code)) in columns:
                used, probabilities, targets = predicted.of(predicted.names.index(name))
                probabilities = _ranks(probabilities, predicted.fold[used])
                areas[attribute.name][group] = (
                    np.full(len(draws), np.nan)
                    if why_not(targets.astype(np.float32))
                    else ranked_scores(probabilities, targets, draws[:, used])["auroc"]
                )
    return areas


def _ranks(probabilities: npt.NDArray[np.float64], folds: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Return what share of its own fold is below each (N,): another fold's probe has another intercept."""
    ranks = np.empty_like(probabilities)
    for fold in np.unique(folds):
        own = probabilities[folds == fold]
        ranks[folds == fold] = np.searchsorted(np.sort(own), own) / len(own)
    return ranks


def _named(attribute: Attribute, code: int) -> str:
    return f"{attribute.name}: {attribute.groups[code]}"


def _signed(values: Areas) -> Interval:
    """Return a difference, which may be below 0, with its 95 % interval."""
    low, high = np.nanpercentile(values[1:], (2.5, 97.5))
    return Interval(float(values[0]), float(low), float(high))
