"""What a recipe learns from: the studies of a table with their targets, their films in memory, and their parts."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from encoder.films.study import position_code
from encoder.findings.probe import why_not
from encoder.training.film_store import FilmStore, TrainingStudies
from encoder.training.options import TargetOptions
from encoder.training.recipe import Recipe
from index.errors import StudiesError
from index.storage.files import sha256_of
from index.table.labels import LabelPolicy
from index.table.splits import OFFICIAL, parts_of, require_disjoint_patients, split_by_patient
from index.table.studies import load_studies
from index.vectors import Rows
from scripts.options.labelled_exports import Wanted

Parts = dict[str, Rows]


@dataclass(frozen=True)
class Material:
    """All that runs of one recipe on one table share."""

    name: str
    """What the recipe was called by."""
    recipe: Recipe
    wanted: Wanted
    table: pa.Table
    targets: npt.NDArray[np.float32]
    films: FilmStore
    frontal_rows: Rows
    lateral_rows: Rows
    positions: npt.NDArray[np.int64]
    inputs: dict[str, Any]
    """What a run reads, as JSON values; a run goes on only with equal ones."""
    splits: Path | None = None
    """A split's file, or `OFFICIAL`, in the place of the recipe's shares."""

    @classmethod
    def gather(
        cls,
        studies: Path,
        images: Path,
        name: str,
        recipe: Recipe,
        cache_gb: float,
        ignored_parts: Collection[str] = (),
        splits: Path | None = None,
        store: Path | None = None,
    ) -> Self:
        """Return the studies of a table and their targets; films are not read yet.

        Args:
            cache_gb, ignored_parts: as `FilmStore` has them. store: its folder.
            splits: as `index.table.splits.parts_of` has it; None for the recipe's shares.

        Raises:
            StudiesError, FilterError: the table or its labels do not fit the recipe.
        """
        table = load_studies(studies)
        wanted = wanted_by(recipe.targets)
        targets = wanted.targets(table)
        if np.isnan(targets).all():
            sentence = wanted.sentence()
            raise StudiesError(f"expected studies with a label that counts, got none of {len(targets):,}; {sentence}")
        paths, views, positions = _films(table, images)
        films = FilmStore(paths, recipe.preprocessing, cache_gb=cache_gb, folder=store, ignored_parts=ignored_parts)
        inputs = {"studies_sha256": sha256_of(studies), "images": str(images.resolve())}
        if splits is not None:
            inputs["splits"] = OFFICIAL if str(splits) == OFFICIAL else sha256_of(splits)
        rows = views["frontal"], views["lateral"]
        return cls(name, recipe, wanted, table, targets, films, *rows, positions, inputs, splits)

    @property
    def ids(self) -> list[str]:
        """The study ids, row for row."""
        ids: list[str] = self.table["study_id"].to_pylist()
        return ids

    @property
    def patients(self) -> list[str]:
        """The patient ids, row for row."""
        ids: list[str] = self.table["patient_id"].to_pylist()
        return ids

    @property
    def known(self) -> Rows:
        """The studies with a known label; the others are in no part."""
        return np.flatnonzero(~np.isnan(self.targets).all(axis=1))

    def split(self) -> Parts:
        """Return the rows of train, valid and test by the recipe's shares, by patient, or as `splits` has them.

        Raises:
            StudiesError: a split without a part train.
        """
        run = self.recipe.run
        if self.splits is not None:
            parts = {name: np.intersect1d(rows, self.known) for name, rows in parts_of(self.splits, self.table).items()}
            if not len(parts.get("train", ())):
                raise StudiesError(
                    f"expected studies with a known label in the part 'train' of {self.splits}, got none"
                )
            if not len(parts.get("valid", ())):
                shares = {"train": 1 - run.valid_fraction, "valid": run.valid_fraction}
                parts |= self.parted(parts["train"], shares)
            return {name: rows for name, rows in parts.items() if len(rows)}
        shares = {"train": 1 - run.valid_fraction - run.test_fraction, "valid": run.valid_fraction}
        return self.parted(self.known, shares | ({"test": run.test_fraction} if run.test_fraction else {}))

    def parted(self, rows: Rows, shares: dict[str, float]) -> Parts:
        """Return the rows parted by patient, stratified over the targets."""
        patients = self.patients
        parts = split_by_patient([patients[row] for row in rows], shares, self.recipe.run.seed, self.targets[rows])
        return {part: rows[places] for part, places in parts.items()}

    def studies_of(self, parts: Parts) -> TrainingStudies:
        """Return what one run learns from. Raises StudiesError, EncoderError: the parts teach nothing or share."""
        require_disjoint_patients(self.patients, parts)
        patients = np.unique(np.asarray(self.patients), return_inverse=True)[1]
        names = tuple(self.wanted.names(self.table))
        studies = TrainingStudies(
            self.frontal_rows,
            self.lateral_rows,
            self.targets,
            names,
            patients,
            parts["train"],
            parts["valid"],
            bool(self.wanted.classes),
            self.positions,
        )
        self._require_outcomes("train", parts)
        if self.recipe.run.monitor != "loss":
            self._require_outcomes("valid", parts)  # or no epoch could be told from another
        return studies

    def not_learnt(self, parts: Parts, part: str = "train") -> dict[str, str]:
        """Return the labels that lack positives or negatives in a part, and in words which."""
        reasons = map(why_not, self.targets[parts[part]].T)
        return {name: why for name, why in zip(self.wanted.names(self.table), reasons, strict=True) if why}

    def _require_outcomes(self, part: str, parts: Parts) -> None:
        missing = self.not_learnt(parts, part)
        if len(missing) == self.targets.shape[1]:
            raise StudiesError(
                f"expected a label with positives and negatives in the part {part!r}, got none ("
                + "; ".join(f"{name}: {why}" for name, why in missing.items())
                + "); use more patients, a larger share or other [targets]"
            )

    def table_of(self, parts: Parts) -> pa.Table:
        """Return the studies of all parts with the part in the column `split`, so that a probe holds out the same."""
        part_of = np.full(self.table.num_rows, None, dtype=object)
        for part, rows in parts.items():
            part_of[rows] = part
        column = pa.array(part_of.tolist(), pa.string())
        place = self.table.column_names.index("split")
        return self.table.set_column(place, "split", column).filter(column.is_valid())


def wanted_by(options: TargetOptions) -> Wanted:
    """Return the labels that a recipe learns. Raises StudiesError: an unknown policy."""
    policy = LabelPolicy.parse(options.uncertain, options.blank, options.per_label)
    classes = {name: list(words) for name, words in options.classes.items()}
    return Wanted(() if classes else options.findings, classes, policy)


def _films(table: pa.Table, images: Path) -> tuple[list[Path], dict[str, Rows], npt.NDArray[np.int64]]:
    """Return the films, each view's rows (N,) among them, -1 where it is missing, and their position codes (M,)."""
    paths: list[Path] = []
    positions: list[int] = []
    views: dict[str, list[int]] = {"frontal": [], "lateral": []}
    for view, of_view in views.items():
        for path, projection in zip(table[f"{view}_path"].to_pylist(), table["projection"].to_pylist(), strict=True):
            of_view.append(-1 if path is None else len(paths))
            if path is not None:
                paths.append(images / path)
                positions.append(position_code(view if view == "lateral" else projection))
    rows = {view: np.array(of_view, dtype=np.int64) for view, of_view in views.items()}
    return paths, rows, np.array(positions, dtype=np.int64)
