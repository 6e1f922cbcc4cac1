"""What retrieval leans on beside findings: groups of studies, and what it loses where hits must be of another one.

A group is what a study has in common with others besides its findings: a sex, a projection, a source, an age.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from index.errors import StudiesError
from index.importing.join import SOURCE
from index.judging.bootstrap import Draws, Estimate, dealt_anew, estimates
from index.judging.evaluation import Pool, judge, rank
from index.judging.metrics import Judged, chance_of_precision, precision_at
from index.judging.relevance import Labels, Rule
from index.table.labels import LabelPolicy, finding_targets, label_columns
from index.vectors import Mask, Rows

Floats = npt.NDArray[np.float32]
AGES = (18.0, 40.0, 60.0, 80.0)
"""Years at which a band of ages ends."""
DEVICES = "Support Devices"
LEAST_PATIENTS = 20
"""Of a group that is looked at: with fewer, the interval of any figure spans most of its range."""
_DEALINGS, _DRAWN = 200, 20
_DEPTH = 40
"""Hits that are ranked for each that is wanted: of them enough are left where nine in ten are of one group."""
MOST_GROUPS = 10
"""The commonest values of a column that are groups; a text of somebody else's may be another in every row."""


@dataclass(frozen=True)
class Attribute:
    """What divides studies into groups."""

    name: str
    groups: tuple[str, ...]
    """Those of enough patients, the commonest first."""
    codes: Rows
    """(N,) the group of each study, -1 where it is in none of these."""
    column: str | None = None
    """The finding that it is itself, which no other may be judged by."""

    @classmethod
    def of(cls, name: str, values: Sequence[str | None], patients: Sequence[str], column: str | None = None) -> Self:
        """Return the attribute of values, one a study; None, and values of few patients, are no group."""
        owners: dict[str, set[str]] = {}
        for value, patient in zip(values, patients, strict=True):
            if value is not None:
                owners.setdefault(value, set()).add(patient)
        enough = [value for value in owners if len(owners[value]) >= LEAST_PATIENTS]
        groups = sorted(enough, key=lambda value: (-len(owners[value]), value))[:MOST_GROUPS]
        place = {group: code for code, group in enumerate(groups)}
        codes = np.array([-1 if value is None else place.get(value, -1) for value in values], dtype=np.int64)
        return cls(name, tuple(groups), codes, column)

    @property
    def why_not(self) -> str | None:
        """Why nothing can be said of it, None where something can."""
        if len(self.groups) > 1:
            return None
        there = f"only {self.groups[0]!r} has" if self.groups else "none has"
        return f"expected two groups of {LEAST_PATIENTS} patients or more, {there}"


def attributes_of(studies: pa.Table, columns: Sequence[str] = ()) -> list[Attribute]:
    """Return what a table says of its studies: sex, projection, source, age, devices, and further columns.

    Args:
        columns: further ones, of texts or numbers, each of whose values is a group.

    Raises:
        StudiesError: no such column.
    """
    patients = studies["patient_id"].to_pylist()
    devices = finding_targets(studies, [DEVICES], LabelPolicy("ignore", "ignore"))[:, 0]
    attributes = [
        Attribute.of("sex", _texts(studies, "sex"), patients),
        Attribute.of("projection", _texts(studies, "projection"), patients),
        Attribute.of("age", [_band(age) for age in studies["age"].to_pylist()], patients),
        Attribute.of(
            "support devices",
            [{1.0: "named", 0.0: "absent"}.get(float(device)) for device in devices],
            patients,
            DEVICES,
        ),
    ]
    further = [*([SOURCE] if SOURCE in studies.column_names else []), *columns]
    for name in dict.fromkeys(further):
        if name not in studies.column_names:
            raise StudiesError(
                f"expected a column of the table, got {name!r}; there are: {', '.join(studies.column_names)}"
            )
        is_finding = name in label_columns(studies)
        attributes.append(
            Attribute.of(
                "source" if name == SOURCE else name, _texts(studies, name), patients, name if is_finding else None
            )
        )
    return attributes


def _texts(studies: pa.Table, name: str) -> list[str | None]:
    return [None if value in (None, "", "Unknown") else str(value) for value in studies[name].to_pylist()]


def _band(age: float | None) -> str | None:
    if age is None or not np.isfinite(age):
        return None
    band = int(np.searchsorted(AGES, age, side="right"))
    ends = [0, *map(int, AGES)]
    return f"{ends[band]}-{ends[band + 1] - 1}" if band < len(AGES) else f"{ends[-1]} and older"


@dataclass(frozen=True)
class Loss:
    """How good the first k hits are by one rule, among whom: each is precision at k with its chance."""

    all: Estimate
    """All candidates of other patients."""
    as_few: Estimate
    """As many relevant ones and as many others as differ from the query in the group, drawn of all."""
    differing: Estimate
    """Those that differ from the query in the group."""
    lost: Estimate
    """The second less the third: what similarity owes to the group, not to how many are relevant there."""


def losses(
    pool: Pool, attribute: Attribute, rules: Sequence[Rule], k: int, draws: Draws
) -> Iterator[tuple[Rule, Loss]]:
    """Yield what retrieval loses by each rule where query and hit must differ in an attribute.

    The interval of what is lost is as wide as that loss varies when labels are dealt anew among the patients of each
    group: a study that is a hit of many makes it vary more than drawing queries again would show.

    Args:
        pool: studies that are all of a group, queries and candidates.
        rules: those of shared labels.
        draws: (B + 1, Q) of `patient_draws` over the patients of `pool.queries`.
    """
    deep, other = rank(pool, min(_DEPTH * k, len(pool.candidates))), pool.differing(attribute.codes)
    apart = rank(other, k)
    rng = np.random.default_rng(0)
    luck = rng.random((_DRAWN, *deep.shape), dtype=np.float32)
    dealt = list(_dealt_within(attribute.codes, pool.patients))
    for rule in rules:
        asked, judged = judge(pool, deep, rule)
        _, differing = judge(other, apart, rule)
        value, third = precision_at(judged, k), precision_at(differing, k)
        chances = chance_of_precision(judged, k), chance_of_precision(differing, k)
        kept = np.stack([_share(differing.relevant, judged.relevant), _share(_others(differing), _others(judged))])
        drawn = [_precision(judged.hits, _thinned(judged.hits, deep[asked], kept, lots[asked]), k) for lots in luck]
        known = ~np.isnan(third)  # a query counts where it has a relevant candidate in another group
        figures = [np.where(known, values, np.nan) for values in (value, np.mean(drawn, axis=0), third)]
        every, few, far = estimates(figures, [chances[0], chances[1], chances[1]], draws[:, asked])
        kept_by_group = _mean_by_group(kept, attribute.codes[pool.queries], asked)
        varied = [_drop(pool, rule.labels[rows], deep, apart, kept_by_group, luck[0], k) for rows in dealt]
        least, most = np.percentile(varied, (2.5, 97.5)) - np.mean(varied)
        lost = few.value - far.value
        yield rule, Loss(every, few, far, replace(few, value=lost, low=lost - most, high=lost - least, chance=0.0))


def _share(some: Rows, whole: Rows) -> Floats:
    return (some / np.maximum(whole, 1)).astype(np.float32)


def _others(judged: Judged) -> Rows:
    return judged.candidates - judged.relevant


def _thinned(relevant: Mask, ranked: Rows, kept: Floats, luck: Floats) -> Mask:
    """Return which hits (q, n) are drawn, of the relevant ones and of the others the shares (2, q) that are kept."""
    return (luck < np.where(relevant, kept[0][:, None], kept[1][:, None])) & (ranked >= 0)


def _precision(relevant: Mask, drawn: Mask, k: int) -> Floats:
    """Return the share (q,) of relevant ones among the first k of those drawn (q, n)."""
    precision: Floats = (relevant & drawn & (drawn.cumsum(axis=1) <= k)).sum(axis=1) / np.float32(k)
    return precision


def _mean_by_group(kept: Floats, codes: Rows, asked: Rows) -> Floats:
    """Return the shares (2, Q) that are kept of the candidates of a query of its group, on average over those asked."""
    sizes = np.maximum(np.bincount(codes[asked], minlength=codes.max() + 1), 1)
    means = [(np.bincount(codes[asked], shares, len(sizes)) / sizes)[codes] for shares in kept]
    return np.stack(means).astype(np.float32)


def _drop(pool: Pool, labels: Labels, deep: Rows, apart: Rows, kept: Floats, luck: Floats, k: int) -> float:
    """Return by how much fewer hits in other groups are relevant than among as few others, by labels (N, C)."""
    asked = np.flatnonzero(labels[pool.queries].any(axis=1))
    if not len(asked):
        return 0.0
    own = labels[pool.queries[asked]]
    near, far = (np.einsum("qc,qkc->qk", own, labels[rows[asked]]) > 0 for rows in (deep, apart))
    few = _precision(near, _thinned(near, deep[asked], kept[:, asked], luck[asked]), k)
    return float(few.mean() - (far & (apart[asked] >= 0)).mean())


def _dealt_within(codes: Rows, patients: Rows) -> Iterator[Rows]:
    """Yield whose labels each row (N,) is given when they are dealt anew among the patients of each group."""
    groups = [np.flatnonzero(codes == code) for code in np.unique(codes)]
    parts = [
        dealt_anew(np.unique(patients[rows], return_inverse=True)[1], _DEALINGS, seed=number)
        for number, rows in enumerate(groups)
    ]
    for dealt in zip(*parts, strict=True):
        whole = np.empty_like(codes)
        for rows, other in zip(groups, dealt, strict=True):
            whole[rows] = rows[other]
        yield whole
