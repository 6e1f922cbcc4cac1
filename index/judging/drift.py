"""Whether arriving studies have left a collection: two-sample tests of how they lie to it, and what these would find.

Studies of the collection are held back and compared with the rest as the arriving ones are, so that, where both are of
one population, nothing but chance tells them apart.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from index.built.collection import Collection
from index.built.kinds import EXACT_UP_TO
from index.errors import StudiesError
from index.search.familiarity import Layout, LayoutGate
from index.vectors import Embeddings, Rows

Values = npt.NDArray[np.float64]
AXES = 8
"""Principal axes that are looked along: each further one makes all tests stricter."""
DEALINGS = 1999
"""Of who has arrived, which give a p-value of 1 in 2,000 at least."""
LEAST_PATIENTS = 10
"""Arriving, and in each half of a collection; with fewer, no shift would be found."""
_HELD_BACK = 1000
"""Patients of the collection that stand for it: the standard error of a share is 1.6 points at most."""
_AXES_OF = 20_000
"""Studies that the axes are made of."""
_POWER, _TRIALS = 0.8, 200
_SHIFTS: Values = np.linspace(0.05, 3, 60)
_SHARES: Values = np.linspace(0.01, 1, 100)
_CELLS = 1 << 21


@dataclass(frozen=True)
class Measure:
    """One figure a study, of those held back and of those arriving, and how sure it is that the two differ."""

    name: str
    own: Values
    """(n,)"""
    new: Values
    """(m,)"""
    distance: float
    """Kolmogorov and Smirnov's: most by which the shares below any value differ, 0 to 1."""
    p: float
    """How often dealings of who has arrived make it as large."""
    adjusted: float = 1.0
    """The same for all measures together (Holm, 1979)."""

    @property
    def shift(self) -> float:
        """By how many standard deviations of those held back the mean is moved; NaN where these are all alike."""
        spread = float(self.own.std())
        return float(self.new.mean() - self.own.mean()) / spread if spread > 0 else float("nan")


@dataclass(frozen=True)
class Power:
    """What would be found four times in five with so many studies; None where not even the largest tried would."""

    shift: float | None
    """Of all arriving studies, along one measure, in standard deviations."""
    foreign: float | None
    """Share of arriving studies that are less familiar than any of the collection's, 0 to 1."""


@dataclass(frozen=True)
class Drift:
    """What the tests say."""

    measures: tuple[Measure, ...]
    power: Power
    alpha: float
    patients: int
    """Arriving, each of which counts by one study drawn."""
    held_back: int
    """Patients of the collection that these are compared with."""

    @property
    def moved(self) -> tuple[str, ...]:
        """Names of the measures in which arriving studies differ from the collection."""
        return tuple(measure.name for measure in self.measures if measure.adjusted <= self.alpha)


class Arriving(NamedTuple):
    """Studies that arrive."""

    embeddings: Embeddings
    """(M, D)"""
    patients: Sequence[str]
    layouts: Sequence[Layout] | None = None
    """Of each study's first film, where they are at hand."""


def drift_of(collection: Collection, arriving: Arriving, *, alpha: float = 0.05, seed: int = 0) -> Drift:
    """Return whether arriving studies differ from a collection in familiarity, along its axes, and in their looks.

    A study is as familiar as its similarity to the nearest of another patient. One study a patient is drawn, for those
    of one patient are no independent witnesses.

    Args:
        alpha: rate of false alarms, all measures together.

    Raises:
        StudiesError: too few patients arrive, or are in the collection.
    """
    rng = np.random.default_rng(seed)
    new = _one_a_patient(np.asarray(arriving.patients, dtype=str), rng)
    owners = np.asarray(collection.studies["patient_id"].to_pylist(), dtype=str)
    held, rest = _held_back(owners, set(arriving.patients), rng)
    _require_patients(len(new), len(held))
    vectors = collection.vectors
    own = vectors.vectors(held)
    figures = list(_figures(collection, own, arriving.embeddings[new], rest, rng))
    if arriving.layouts is not None and collection.layouts is not None:
        looks = _looks(collection.layouts, [arriving.layouts[row] for row in new], set(arriving.patients), rng)
        figures += [] if looks is None else [("film looks", *looks)]
    tested = [_tested(name, of_held, of_new, rng) for name, of_held, of_new in figures]
    first = tested[0][0]
    critical = float(np.quantile(tested[0][1], 1 - alpha / len(tested)))
    measures = _adjusted([measure for measure, _ in tested])
    return Drift(measures, _power(first.own, len(first.new), critical, rng), alpha, len(new), len(held))


def _require_patients(new: int, held: int) -> None:
    for count, where in ((new, "arriving"), (held, "of the collection alone, in each half of it")):
        if count < LEAST_PATIENTS:
            raise StudiesError(f"expected at least {LEAST_PATIENTS} patients {where}, got {count}")


def _one_a_patient(patients: npt.NDArray[np.str_], rng: np.random.Generator) -> Rows:
    """Return a row of each patient, drawn, in random order."""
    order = rng.permutation(len(patients))
    firsts = np.unique(patients[order], return_index=True)[1]
    return np.asarray(rng.permutation(order[firsts]), dtype=np.int64)


def _held_back(owners: npt.NDArray[np.str_], arriving: set[str], rng: np.random.Generator) -> tuple[Rows, Rows]:
    """Return a row of each patient that is held back, and all rows of the others; none of a patient that arrives."""
    alone = np.flatnonzero(~np.isin(owners, sorted(arriving)))
    drawn = alone[_one_a_patient(owners[alone], rng)]
    held = drawn[: min(_HELD_BACK, len(drawn) // 2)]
    return np.sort(held), alone[~np.isin(owners[alone], owners[held])]


def _figures(
    collection: Collection, own: Embeddings, new: Embeddings, rest: Rows, rng: np.random.Generator
) -> Iterator[tuple[str, Values, Values]]:
    """Yield familiarity and the places along the axes of those held back and of those arriving."""
    vectors = collection.vectors
    mask = np.zeros(len(vectors), dtype=bool)
    mask[rest] = True
    among, exact = vectors.select(mask), len(vectors) <= EXACT_UP_TO
    nearest = [vectors.search(asked, 1, among=among, exact=exact)[0][:, 0].astype(np.float64) for asked in (own, new)]
    yield "familiarity", nearest[0], nearest[1]
    some = rest if len(rest) <= _AXES_OF else np.sort(rng.choice(rest, _AXES_OF, replace=False))
    whole = vectors.vectors(some).astype(np.float64)
    mean = whole.mean(axis=0)
    axes = np.linalg.eigh((whole - mean).T @ (whole - mean))[1][:, ::-1][:, :AXES]
    places = [(embeddings - mean) @ axes for embeddings in (own, new)]
    for axis in range(axes.shape[1]):
        yield f"axis {axis + 1}", places[0][:, axis], places[1][:, axis]


def _looks(
    sample: pa.Table, layouts: Sequence[Layout], arriving: set[str], rng: np.random.Generator
) -> tuple[Values, Values] | None:
    """Return how far films held back, and those arriving, are from the nearest of a collection's; None with too few."""
    owners = np.asarray(sample["patient_id"].to_pylist(), dtype=str)
    held, rest = _held_back(owners, arriving, rng)
    gate = LayoutGate.build(sample.take(pa.array(rest)))
    if gate is None or len(held) < LEAST_PATIENTS:
        return None
    own = [np.frombuffer(sample["layout"][int(row)].as_py(), dtype=np.int8) for row in held]
    if any(len(layout) != len(own[0]) for layout in layouts):
        return None
    return gate.distances_to(own), gate.distances_to(layouts)


def _tested(name: str, own: Values, new: Values, rng: np.random.Generator) -> tuple[Measure, Values]:
    """Return a measure with its p-value, and the distances (DEALINGS,) when who has arrived is dealt anew."""
    both = np.concatenate([own, new])
    order = np.argsort(both, kind="stable")
    ends = np.append(np.diff(both[order]) > 0, True)
    arrived = np.arange(len(both)) >= len(own)
    distance = float(_distances(arrived[order][None], ends)[0])
    dealt: list[Values] = []
    step = max(_CELLS // len(both), 1)
    for start in range(0, DEALINGS, step):
        some = np.broadcast_to(arrived, (min(step, DEALINGS - start), len(both)))
        dealt.append(_distances(rng.permuted(some, axis=1), ends))
    distances = np.concatenate(dealt)
    p = (1 + np.count_nonzero(distances >= distance - 1e-9)) / (1 + len(distances))
    return Measure(name, own, new, distance, float(p)), distances


def _distances(arrived: npt.NDArray[np.bool_], ends: npt.NDArray[np.bool_]) -> Values:
    """Return Kolmogorov and Smirnov's distance (B,) of values in order, by who has arrived (B, n + m).

    Args:
        ends: (n + m,) the last of values that are alike.
    """
    below = arrived.cumsum(axis=1, dtype=np.float64)
    new = below[:, -1:]
    own = arrived.shape[1] - new
    others = np.arange(1, arrived.shape[1] + 1) - below
    distances: Values = np.abs(below / new - others / own)[:, ends].max(axis=1)
    return distances


def _adjusted(measures: Sequence[Measure]) -> tuple[Measure, ...]:
    """Return measures with p-values that hold for all together (Holm, Scandinavian Journal of Statistics 6, 1979)."""
    order = np.argsort([measure.p for measure in measures], kind="stable")
    least, adjusted = 0.0, {}
    for rank, place in enumerate(order.tolist()):
        least = max(least, min((len(measures) - rank) * measures[place].p, 1.0))
        adjusted[place] = least
    return tuple(replace(measure, adjusted=adjusted[place]) for place, measure in enumerate(measures))


def _power(own: Values, arriving: int, critical: float, rng: np.random.Generator) -> Power:
    """Return the least shift and share of foreign studies that are found four times in five, by simulation.

    Both samples are drawn from those held back, with replacement; what is drawn as arriving is then moved.

    Args:
        critical: distance from which on a difference is told.
    """
    spread = float(own.std()) or 1.0
    strange = own.min() - spread
    base = [(rng.choice(own, len(own)), rng.choice(own, arriving), rng.random(arriving)) for _ in range(_TRIALS)]

    def is_found(shift: float, share: float) -> bool:
        hits = 0
        for first, second, luck in base:
            moved = np.where(luck < share, strange, second + shift * spread)
            both = np.concatenate([first, moved])
            order = np.argsort(both, kind="stable")
            arrived = (np.arange(len(both)) >= len(first))[order][None]
            hits += _distances(arrived, np.append(np.diff(both[order]) > 0, True))[0] >= critical
        return hits >= _POWER * _TRIALS

    return Power(
        _least(_SHIFTS, lambda shift: is_found(shift, 0.0)),
        _least(_SHARES, lambda share: is_found(0.0, share)),
    )


def _least(steps: Values, is_found: Callable[[float], bool]) -> float | None:
    """Return the least of ascending steps from which on something is found; None where it never is."""
    low, high = 0, len(steps)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if is_found(float(steps[middle])) else (middle + 1, high)
    return None if low == len(steps) else float(steps[low])
