"""What a label counts for when it is used: policies for uncertain and blank, and targets as plain arrays.

Nothing is written back: the table keeps its labels raw.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from index.errors import StudiesError
from index.table.filters import filter_mask, parse_where
from index.table.studies import FINDINGS, label_names

Choice = Literal["ignore", "zeros", "ones"]
Targets = npt.NDArray[np.float32]
"""(N, C): 1 present, 0 absent, NaN not to be used."""

KNOWN_GOOD: Mapping[str, Choice] = {"Edema": "ones", "Atelectasis": "ones", "Consolidation": "zeros"}
"""What classifiers of the CheXpert competition commonly take uncertain labels for, by finding; the approach,
and its gain for edema and atelectasis, are of Irvin et al., AAAI 2019, section 4."""

POLICIES = (*get_args(Choice), "known-good")
_VALUES: Mapping[str, float] = {"ignore": np.nan, "zeros": 0.0, "ones": 1.0}


@dataclass(frozen=True)
class LabelPolicy:
    """What -1 (uncertain) and blank count for: ignored, 0 (zeros) or 1 (ones)."""

    uncertain: Choice = "ignore"
    blank: Choice = "zeros"
    """A blank is a finding the report does not mention: absent, unless the table joins several sources."""
    per_label: Mapping[str, Choice] = field(default_factory=dict)
    """Findings whose uncertain labels count otherwise than `uncertain` says."""
    blank_per_label: Mapping[str, Choice] = field(default_factory=dict)
    """Findings whose blank labels count otherwise than `blank` says."""

    def __post_init__(self) -> None:
        usual = {"uncertain": self.uncertain, "blank": self.blank}
        for name, choice in (*usual.items(), *self.per_label.items(), *self.blank_per_label.items()):
            if choice not in _VALUES:
                raise StudiesError(f"{name}: expected a policy of {', '.join(_VALUES)}, got {choice!r}")

    @classmethod
    def named(cls, name: str, blank: Choice = "zeros") -> Self:
        """Return the policy of a name of POLICIES; known-good ignores what its table does not hold."""
        if name == "known-good":
            return cls("ignore", blank, KNOWN_GOOD)
        if name not in _VALUES:
            raise StudiesError(f"expected a policy of {', '.join(POLICIES)}, got {name!r}")
        return cls(name, blank)  # type: ignore[arg-type]  # a key of _VALUES is a Choice

    @classmethod
    def parse(cls, uncertain: str, blank: str = "zeros", per_label: Mapping[str, Any] | None = None) -> Self:
        """Return the policy of two texts, each a choice and then findings that go their own way.

        As in `parse("known-good,Fracture=zeros", "zeros,Mass=ignore")`. Raises StudiesError.

        Args:
            per_label: further findings, as the first text names them.
        """
        first, own = _parse_choices(uncertain)
        usual, blank_own = _parse_choices(blank)
        named = cls.named(first, usual)  # type: ignore[arg-type]  # the policy itself refuses other words
        return replace(named, per_label={**named.per_label, **own, **(per_label or {})}, blank_per_label=blank_own)

    def uncertain_for(self, finding: str) -> Choice:
        """Return what -1 counts for in a finding."""
        return self.per_label.get(finding, self.uncertain)

    def blank_for(self, finding: str) -> Choice:
        """Return what blank counts for in a finding."""
        return self.blank_per_label.get(finding, self.blank)

    def of(self, findings: Collection[str]) -> Self:
        """Return the policy restricted to some findings."""
        uncertain, blank = (
            {name: choice for name, choice in own.items() if name in findings}
            for own in (self.per_label, self.blank_per_label)
        )
        return replace(self, per_label=uncertain, blank_per_label=blank)

    def sentence(self) -> str:
        """Return the policy in words, as every report states it."""
        words = {"ignore": "is ignored", "zeros": "counts as absent", "ones": "counts as present"}
        uncertain, blank = (
            words[usual] + "".join(f"; in {name} it {words[choice]}" for name, choice in own.items())
            for usual, own in ((self.uncertain, self.per_label), (self.blank, self.blank_per_label))
        )
        return f"uncertain (-1) {uncertain}; blank {blank}"


@dataclass(frozen=True)
class Labelling:
    """How targets are made of labels: by a policy, or as exclusive classes."""

    policy: LabelPolicy = field(default_factory=LabelPolicy)
    classes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """The filter words of each class; empty where findings are wanted."""

    def targets(self, table: pa.Table, findings: Sequence[str]) -> Targets:
        """Return the targets (N, C) of the classes, or of the findings. Raises StudiesError, FilterError."""
        return class_targets(table, self.classes) if self.classes else finding_targets(table, findings, self.policy)

    def sentence(self) -> str:
        """Return how labels are taken, in words."""
        if self.classes:
            return "classes: " + "; ".join(f"{name} = {' and '.join(words)}" for name, words in self.classes.items())
        return f"labels: {self.policy.sentence()}"

    def as_object(self) -> dict[str, Any]:
        """Return this as plain JSON, as a probe's file keeps it."""
        policy = {name: rule if isinstance(rule, str) else dict(rule) for name, rule in vars(self.policy).items()}
        return {"policy": policy, "classes": {name: list(words) for name, words in self.classes.items()}}

    @classmethod
    def of_probe(cls, kept: Any) -> tuple[Self, str]:
        """Return how a probe's labels were read, and that in words; where it does not say, the usual way.

        Args:
            kept: what `as_object` gave when it was learnt; None where an older version learnt it.

        Raises:
            StudiesError: something else.
        """
        if kept is not None:
            labels = cls.from_object(kept)
            return labels, labels.sentence()
        usual = cls(LabelPolicy.named("known-good"))
        return usual, f"{usual.sentence()}; how labels counted in training is not known"

    @classmethod
    def from_object(cls, kept: Any) -> Self:
        """Return what `as_object` gave. Raises StudiesError: it is something else."""
        try:
            classes = {str(name): [str(word) for word in words] for name, words in kept["classes"].items()}
            return cls(LabelPolicy(**kept["policy"]), classes)
        except (KeyError, TypeError, AttributeError) as error:
            raise StudiesError(
                f"expected how labels were read, got {str(kept)[:80]!r}; train the probe again"
            ) from error


def label_columns(table: pa.Table) -> list[str]:
    """Return the findings of a table, as `index.table.studies.label_names` tells them from its schema."""
    return label_names(table.schema)


def finding_targets(table: pa.Table, findings: Sequence[str], policy: LabelPolicy) -> Targets:
    """Return the targets (N, C) of the findings, columns in the order given; NaN where not to be used.

    A finding may also be a further column of whole numbers that the source had.

    Raises:
        StudiesError: no such column, or a label other than 1, 0, -1 or blank (NaN included).
    """
    named = (*findings, *policy.per_label, *policy.blank_per_label)
    unknown = [name for name in named if name not in {*table.column_names, *FINDINGS}]
    if unknown:
        raise StudiesError(f"expected findings of this table, got {', '.join(map(repr, unknown))}; {_known(table)}")
    columns = [_target(name, table, policy) for name in findings]
    return np.stack(columns, axis=1) if columns else np.empty((table.num_rows, 0), np.float32)


def class_targets(table: pa.Table, classes: Mapping[str, Sequence[str]]) -> Targets:
    """Return exclusive one-hot targets (N, C), columns in the order given; a row of no class is all NaN.

    Args:
        classes: the filter words of each class, which must all hold, e.g. `{"virus": ["Etiology=virus"]}`.

    Raises:
        StudiesError: fewer than two classes, or a row in two of them. FilterError: words that do not parse.
    """
    if len(classes) < 2:
        raise StudiesError(f"expected two classes or more, got {', '.join(classes) or 'none'}")
    masks = [filter_mask(parse_where(words, table.schema), table) for words in classes.values()]
    targets = np.stack(masks, axis=1).astype(np.float32)
    held = targets.sum(axis=1)
    if (held > 1).any():
        row = int(np.argmax(held > 1))
        both = " and ".join(name for name, on in zip(classes, targets[row], strict=True) if on)
        raise StudiesError(
            f"expected classes that exclude each other, got {table['study_id'][row].as_py()!r} in {both}"
        )
    targets[held == 0] = np.nan
    return targets


def _parse_choices(text: str) -> tuple[str, dict[str, Any]]:
    usual, *own = [part.strip() for part in text.split(",")]
    pairs = [part.rpartition("=") for part in own]
    if "=" in usual or not all(name.strip() and choice.strip() for name, _, choice in pairs):
        raise StudiesError(f"expected a policy like 'zeros' or 'zeros,Edema=ones', got {text!r}")
    return usual, {name.strip(): choice.strip() for name, _, choice in pairs}


def _target(name: str, table: pa.Table, policy: LabelPolicy) -> npt.NDArray[np.float32]:
    if name not in table.column_names:
        raise StudiesError(f"expected a column {name!r}, got none; {_known(table)}")
    column = table[name].combine_chunks()
    if pa.types.is_null(column.type):
        column = column.cast(pa.int8())
    if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
        raise StudiesError(f"{name}: expected labels of 1, 0, -1 or blank, got a column of {column.type}")
    blank = np.asarray(column.is_null().to_numpy(zero_copy_only=False), dtype=bool)
    labels = np.asarray(column.cast(pa.float32()).fill_null(0).to_numpy(), dtype=np.float32)
    foreign = ~np.isin(labels, (1.0, 0.0, -1.0))
    if foreign.any():
        row = int(np.argmax(foreign))
        raise StudiesError(f"{name}: expected a label of 1, 0, -1 or blank, got {labels[row]} at row {row}")
    target = np.where(labels == -1, _VALUES[policy.uncertain_for(name)], labels)
    return np.where(blank, _VALUES[policy.blank_for(name)], target).astype(np.float32)


def _known(table: pa.Table) -> str:
    numbers = [field.name for field in table.schema if pa.types.is_integer(field.type)]
    return f"there are: {', '.join(numbers)}"
