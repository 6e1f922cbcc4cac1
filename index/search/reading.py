"""The reading of one study: what a probe says of each finding, and what the studies nearest to it say beside it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa

from index.search.answer import Answer
from index.search.contrast import Contrast
from index.search.familiarity import NO_CALL, Familiarity
from index.search.votes import Vote, votes_on
from index.table.labels import Labelling


class Thresholds(Protocol):
    """The thresholds behind a call, on the probability."""

    @property
    def youden(self) -> float:
        """The threshold that best separates present from absent."""


class Predicted(Protocol):
    """What a probe says of one finding; `encoder.findings.predict.Prediction` is one."""

    @property
    def finding(self) -> str: ...
    @property
    def probability(self) -> float: ...
    @property
    def spread(self) -> float | None: ...
    @property
    def call(self) -> str | None: ...
    @property
    def no_call(self) -> str | None: ...
    @property
    def meaning(self) -> str | None: ...
    @property
    def points(self) -> Thresholds | None: ...
    @property
    def evidence(self) -> Any: ...


@dataclass(frozen=True)
class FindingReading:
    """The prediction for one finding."""

    finding: str
    probability: float | None = None
    """Calibrated, in [0, 1]; None without a probe."""
    spread: float | None = None
    """Standard deviation of the probability over dropout passes."""
    call: str | None = None
    no_call: str | None = None
    """Why there is no call, in words."""
    meaning: str | None = None
    """What the call says of probability and threshold, in words."""
    evidence: Any = None
    """How well the probe tells the finding apart: an `encoder.findings.calibration.Evidence`."""
    thresholds: Thresholds | None = None
    vote: Vote | None = None
    """Of the neighbours; None where none has a label that counts."""

    @property
    def disagrees(self) -> bool:
        """Whether probe and neighbours lead to different decisions; false where one of them makes none."""
        if self.vote is None or self.thresholds is None or self.call is None or self.probability is None:
            return False
        return self.vote.disagrees(self.probability, self.thresholds.youden)


@dataclass(frozen=True)
class Reading:
    """What is said of one study, the most probable finding first."""

    predictions: tuple[FindingReading, ...]
    fingerprints: tuple[str, ...]
    """Of the encoders asked."""
    options: Any
    """How often, and how changed, the films were looked at: an `encoder.findings.predict.Options`."""
    notice: str | None = None
    """Why nothing is predicted, where there is no probe."""
    labels: str | None = None
    """How the neighbours' labels count, in words; None where no collection was asked."""
    familiarity: Familiarity | None = None
    contrast: Contrast | None = None
    film_notices: tuple[str, ...] = ()
    """What a reader should know of the films, each in a sentence."""
    maps: tuple[Any, ...] = ()
    """Of the first finding, where they were asked for."""
    warning: str | None = None
    """Why encoder and collection are not to be relied on."""

    @property
    def fingerprint(self) -> str:
        """Of the encoder whose vectors were searched."""
        return self.fingerprints[0]


def read_findings(
    findings: Sequence[str],
    predictions: Sequence[Predicted],
    answer: Answer | None = None,
    schema: pa.Schema | None = None,
    labelling: Labelling | None = None,
) -> tuple[FindingReading, ...]:
    """Return one reading for each finding, the most probable first; without predictions, the largest vote first.

    Args:
        predictions: of any of the findings.
        answer: the studies nearest to the one that is read; None where no collection was asked. On an unfamiliar study
            nothing is called.
        schema: of the collection. labelling: how its labels count in the vote.
    """
    predicted = {prediction.finding: prediction for prediction in predictions}
    votes: Mapping[str, Vote | None] = {}
    if answer is not None and schema is not None and labelling is not None:
        votes = votes_on(answer.hits, schema, findings, labelling)
    unfamiliar = answer is not None and answer.familiarity is not None and answer.familiarity.unfamiliar
    read = (_read(name, predicted.get(name), votes.get(name), unfamiliar) for name in findings)
    return tuple(sorted(read, key=_order))


def _read(finding: str, predicted: Predicted | None, vote: Vote | None, unfamiliar: bool) -> FindingReading:
    if predicted is None:
        return FindingReading(finding, vote=vote)
    call, no_call, meaning = (
        (None, NO_CALL, None) if unfamiliar else (predicted.call, predicted.no_call, predicted.meaning)
    )
    return FindingReading(
        finding,
        predicted.probability,
        predicted.spread,
        call,
        no_call,
        meaning,
        predicted.evidence,
        predicted.points,
        vote,
    )


def _order(reading: FindingReading) -> tuple[float, str]:
    share = reading.vote.share if reading.vote else 0.0
    return -(share if reading.probability is None else reading.probability), reading.finding
