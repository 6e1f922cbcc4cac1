"""Exports as the judging verbs want them: one table and one matrix, with labels chosen by the command line's words."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import click
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from encoder.films.image import READING
from index.errors import FingerprintMismatch, StudiesError
from index.export.reliability import warning_of
from index.export.shards import FAILED, load_embeddings, load_manifest
from index.table.filters import filter_mask, parse_where
from index.table.labels import Labelling, LabelPolicy, Targets, label_columns
from index.table.studies import PATIENTS_UNKNOWN, unknown_patients
from index.vectors import Embeddings


@dataclass(frozen=True)
class Embedded:
    """Studies and their embeddings (N, D), row for row, all of one encoder."""

    studies: pa.Table
    embeddings: Embeddings
    fingerprint: str
    warning: str | None = None
    """Why neighbours among them are not to be relied on, as the first export with a reason says."""

    @classmethod
    def load(cls, folders: Sequence[Path]) -> Self:
        """Return the exports of all folders as one.

        Raises:
            FingerprintMismatch: they are of different encoders. StudiesError: none embedded, or one is there twice.
            ArtefactError: an export is unfinished or has changed.
        """
        manifests = {folder: load_manifest(folder) for folder in folders}
        prints = {folder: str(manifest["fingerprint"]) for folder, manifest in manifests.items()}
        first, fingerprint = next(iter(prints.items()))
        for folder, other in prints.items():
            if other != fingerprint:
                raise FingerprintMismatch(
                    f"{str(first)!r} was made by encoder {fingerprint[:12]}, {str(folder)!r} by {other[:12]}; "
                    "run precedent export again with one encoder"
                )
        tables, vectors = zip(*(load_embeddings(folder) for folder in folders), strict=True)
        studies = pa.concat_tables(tables, promote_options="default").combine_chunks()
        if not studies.num_rows:
            raise StudiesError(f"expected embedded studies in {str(first)!r}, got none; see its {FAILED}")
        warnings = [warning_of(manifest, reading=READING) for manifest in manifests.values()]
        warning = next((warning for warning in warnings if warning is not None), None)
        embedded = cls(studies, np.concatenate(vectors), fingerprint, warning)
        repeated = len(embedded.ids) - len(set(embedded.ids))
        if repeated:
            raise StudiesError(f"expected each study once, got {repeated} twice; the exports share studies")
        return embedded

    @property
    def ids(self) -> list[str]:
        """The study ids, row for row."""
        ids: list[str] = self.studies["study_id"].to_pylist()
        return ids

    @property
    def patients(self) -> list[str]:
        """The patient ids, row for row."""
        ids: list[str] = self.studies["patient_id"].to_pylist()
        return ids

    def patients_sentence(self) -> list[str]:
        """Return that the patients of some studies are unknown, in words; nothing where they are known."""
        unknown = unknown_patients(self.studies)
        return [f"{PATIENTS_UNKNOWN} ({unknown:,} of {len(self.ids):,} studies)"] if unknown else []

    def where(self, words: Sequence[str]) -> Self:
        """Return the studies of which all the filter words hold. Raises FilterError; StudiesError: there is none."""
        if not words:
            return self
        rows = np.flatnonzero(filter_mask(parse_where(words, self.studies.schema), self.studies))
        if not len(rows):
            raise StudiesError(f"expected studies of which {' and '.join(words)} holds, got none")
        return self.take(rows)

    def take(self, rows: npt.NDArray[np.integer] | Sequence[int]) -> Self:
        """Return those rows, in that order."""
        return type(self)(self.studies.take(pa.array(rows)), self.embeddings[rows], self.fingerprint, self.warning)


POLICY, BLANK = "known-good", "zeros"
Command = Callable[..., Any]


@dataclass(frozen=True)
class Wanted:
    """Which labels are judged, and what uncertain and blank count for."""

    findings: tuple[str, ...]
    classes: dict[str, list[str]]
    policy: LabelPolicy

    @classmethod
    def parse(cls, findings: str | None, classes: Sequence[str], policy: str | None, blank: str | None) -> Self:
        """Return what the options say; `findings` is a list with commas, a class `NAME:WORD,WORD`.

        Raises:
            StudiesError: an unknown policy.
        """
        if findings and classes:
            raise click.UsageError("give either --findings or --class")
        names = tuple(name.strip() for name in (findings or "").split(",") if name.strip())
        return cls(names, dict(map(_class, classes)), LabelPolicy.parse(policy or POLICY, blank or BLANK))

    def names(self, studies: pa.Table) -> list[str]:
        """Return the classes, the findings asked for, or every label column of the studies."""
        return list(self.classes) or list(self.findings) or label_columns(studies)

    @property
    def labelling(self) -> Labelling:
        """How targets are made of labels."""
        return Labelling(self.policy, self.classes)

    def targets(self, studies: pa.Table) -> Targets:
        """Return the targets (N, C) of `names`. Raises StudiesError, FilterError."""
        return self.labelling.targets(studies, self.names(studies))

    def sentence(self) -> str:
        """Return how labels were taken, in words."""
        return self.labelling.sentence()


def label_options(*, of_the_probe: bool = False) -> Callable[[Command], Command]:
    """Return what adds the options that `Wanted.parse` reads to a command.

    Args:
        of_the_probe: left out, --policy and --blank are None and mean those that a probe was taught with.
    """
    policy, blank = (None, None) if of_the_probe else (POLICY, BLANK)
    instead = " (default: as when the probe was trained)" if of_the_probe else ""
    options = (
        click.option("--findings", help="Findings, separated by commas (default: every label column)."),
        click.option(
            "--class",
            "classes",
            multiple=True,
            metavar="NAME:WORDS",
            help="Use classes that exclude each other instead of findings: a name and the filter of its studies, "
            "e.g. 'bacteria:Etiology=bacteria'. Repeat for each class.",
        ),
        click.option(
            "--policy",
            default=policy,
            show_default=True,
            metavar="CHOICE[,FINDING=CHOICE...]",
            help="What uncertain labels (-1) count as: ignore, zeros, ones, or known-good, which counts them as 1 in "
            f"Edema and Atelectasis, as 0 in Consolidation, and ignores them in other findings{instead}.",
        ),
        click.option(
            "--blank",
            default=blank,
            show_default=True,
            metavar="CHOICE[,FINDING=CHOICE...]",
            help=f"What blank labels count as: ignore, zeros or ones{instead}.",
        ),
    )

    def add(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return add


def _class(text: str) -> tuple[str, list[str]]:
    name, colon, words = text.partition(":")
    if not name.strip() or not colon or not words.strip():
        raise click.UsageError(f"expected a class like 'bacteria:Etiology=bacteria', got {text!r}")
    return name.strip(), [word.strip() for word in words.split(",")]
