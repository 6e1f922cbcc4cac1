"""Whether neighbours can be relied on, by what a manifest says of its vectors: whether their encoder was trained, how
often neighbours share a finding, and by which version their films were read.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from index.errors import ReadingMismatch

K = 5
LEAST_QUERIES = 100
"""Studies with a finding; of fewer the interval would be wider than what there is to see."""
NOT_MEASURED = f"not measured; it takes {LEAST_QUERIES} studies with a finding"

UNTRAINED = (
    "The encoder was never trained: the layers above its backbones are still random, and its neighbours "
    "mean little however high their similarity; train it with precedent train, then export and index again."
)
_REMEDY = "train an encoder on such films with precedent train, then export and index again."


@dataclass(frozen=True)
class Interval:
    """A mean over queries with its 95 % interval."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, *figures: float) -> Self:
        """Return the interval of a value, its low and its high end, to four decimals."""
        return cls(*(round(float(figure), 4) for figure in figures))

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


@dataclass(frozen=True)
class Agreement:
    """Of the five nearest studies of other patients in a sample, the share that has a finding of the query's.

    Where the encoder has learnt from these very studies, it flatters.
    """

    queries: int
    precision: Interval
    """By bootstrap over patients."""
    chance: float
    """The share among all other patients' studies of the sample."""
    above_chance: Interval
    """By permuting the labels among the patients."""
    pixels: Interval | None
    """The same share of neighbours by the films' layouts alone, brightness and edges on a grid of 8 x 8; None where
    the export has none."""
    above_pixels: Interval | None

    @property
    def fault(self) -> str:
        """Why the neighbours may mean little, "" where nothing says so."""
        if self.above_chance.low <= 0:
            return "that is not shown to be more than chance"
        if self.above_pixels is not None and self.above_pixels.low <= 0:
            return "that is not shown to be more than a coarse look at the films gives, without any encoder"
        return ""

    def sentence(self) -> str:
        """Return the figures in words."""
        beside = f", {self.pixels} by the films' coarse layout alone" if self.pixels is not None else ""
        return (
            f"{self.precision} of the {K} nearest share a finding, {self.chance:.3f} by chance{beside} "
            f"({self.queries:,} studies)"
        )


def facts_of(trained: bool | None, agreement: Agreement | None) -> dict[str, Any]:
    """Return what a manifest says of an encoder and of how its neighbours agree."""
    return {"encoder_trained": trained, "agreement": None if agreement is None else asdict(agreement)}


def kept_facts(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return those facts of another manifest, by which version its films were read, what maps of them are kept, and who
    else made the vectors.
    """
    kept = ("encoder_trained", "agreement", "reading", "regions", "source")
    return {name: manifest[name] for name in kept if manifest.get(name, "") != ""}


def agreement_in(manifest: Mapping[str, Any]) -> Agreement | None:
    """Return what a manifest, whose shape has been checked, says of how neighbours agree."""
    said = manifest.get("agreement")
    if said is None:
        return None
    parts: dict[str, Any] = {
        name: Interval(**value) if isinstance(value, Mapping) else value for name, value in said.items()
    }
    return Agreement(**parts)


def is_trained(manifest: Mapping[str, Any], trained: bool | None = None) -> bool | None:
    """Return whether the encoder of a manifest's vectors was trained, as `trained` says or else the manifest."""
    said: bool | None = manifest.get("encoder_trained")
    return said if trained is None else trained


def warning_of(manifest: Mapping[str, Any], trained: bool | None = None, reading: int | None = None) -> str | None:
    """Return why neighbours are not to be relied on and what to do, a sentence a reason; None where nothing says so.

    Args:
        trained: what the encoder's own file says, where that is at hand.
        reading: the version by which films are read now, where that counts.
    """
    other = "" if reading is None else other_reading(manifest, reading)
    reasons = [reason for reason in (_of_encoder(manifest, trained), other and f"{other}.") if reason]
    return " ".join(reasons) or None


def require_reading(manifest: Mapping[str, Any], reading: int) -> None:
    """Refuse to put films that are read by one version beside those of another. Raises ReadingMismatch."""
    if other := other_reading(manifest, reading):
        raise ReadingMismatch(f"{other}; precedent add --mix-readings adds nevertheless")


def other_reading(manifest: Mapping[str, Any], reading: int) -> str:
    """Return in words that films were read by another version than this one, and what to do; "" where they were not."""
    said = manifest.get("reading", 1)
    if said == reading or "source" in manifest:  # nobody here has read the films of vectors that were imported
        return ""
    known = f"version {said}" if "reading" in manifest else "version 1, as none is named,"
    return (
        f"The films of these vectors were read by {known} of the reading and films are now read by version {reading}, "
        "which reads some films differently, above all DICOM; export and index again to read all in the same way"
    )


def _of_encoder(manifest: Mapping[str, Any], trained: bool | None) -> str | None:
    measured = agreement_in(manifest)
    if is_trained(manifest, trained) is False:
        return UNTRAINED + (f" Measured: {measured.sentence()}." if measured is not None else "")
    if measured is None or not measured.fault:
        return None
    remedy = "compare other models' vectors by precedent evaluate --also." if "source" in manifest else _REMEDY
    return f"Neighbours may mean little here: {measured.sentence()}; {measured.fault}; {remedy}"
