"""What `precedent predict` found, as JSON and as a table for the terminal.

Knows predictions and what a collection says beside them; it must not know how either came about.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.box import SIMPLE
from rich.table import Table

from encoder.findings.calibration import Evidence
from encoder.findings.predict import Options, Prediction
from index.search.contrast import Contrast, Counterpart
from index.search.familiarity import Familiarity
from index.search.votes import Vote
from index.storage.files import finite
from scripts.reports.familiarity import familiarity_line, familiarity_object
from scripts.reports.page import NOT_DEFINED
from scripts.terminal import say, show

_FIGURES = ("probability", "with/without")


@dataclass(frozen=True)
class Surroundings:
    """What a collection says of a query."""

    votes: Mapping[str, Vote | None]
    labels: str
    """How the neighbours' labels count, in words."""
    familiarity: Familiarity | None
    contrast: Contrast | None


@dataclass(frozen=True)
class Report:
    """Everything that is said of one study."""

    fingerprints: tuple[str, ...]
    """Of the encoders asked."""
    options: Options
    predictions: Sequence[Prediction]
    around: Surroundings | None
    """None where no index was given."""
    maps: Sequence[str] = ()
    """Pictures of the first finding's maps, where they were asked for."""
    notices: Sequence[str] = ()
    """What a reader should know of the films, each in a sentence."""
    warning: str | None = None
    """Why encoder and collection are not to be relied on."""


def as_object(report: Report) -> dict[str, Any]:
    """Return everything as plain JSON."""
    around = report.around
    found: dict[str, Any] = {
        "fingerprints": report.fingerprints,
        "options": asdict(report.options),
        "predictions": [_prediction_object(one, around) for one in report.predictions],
        "maps": list(report.maps),
        "film_notices": list(report.notices),
        "warning": report.warning,
    }
    if around is not None:
        found["labels"] = around.labels
        found["familiarity"] = familiarity_object(around.familiarity)
        found["contrast"] = around.contrast and {
            "finding": around.contrast.finding,
            "present": _counterpart_object(around.contrast.present),
            "absent": _counterpart_object(around.contrast.absent),
        }
    plain: dict[str, Any] = finite(found)
    return plain


def print_report(report: Report) -> None:
    """Print a line a finding, then what is known of the query as a whole."""
    show(as_table(report.predictions, report.around))
    maps = (f"map of {report.predictions[0].finding}: {name}" for name in report.maps)
    say(*_of_calls(report), _how(report), *_sentences(report.around), *report.notices, *maps)


def as_table(predictions: Sequence[Prediction], around: Surroundings | None) -> Table:
    """Return a row a finding; without a collection, without a vote."""
    table = Table(box=SIMPLE, padding=(0, 1, 0, 0))
    headings = ["finding", "probability", "call", "AUROC", "with/without"]
    headings += ["neighbours' vote", "flag"] if around else []
    for heading in headings:
        table.add_column(heading, justify="right" if heading in _FIGURES else "left", no_wrap=True)
    for one in predictions:
        spread = "" if one.spread is None else f" ± {one.spread:.3f}"
        cells = [one.finding, f"{one.probability:.3f}{spread}", one.call or "no call", *_evidence_cells(one.evidence)]
        if around:
            vote = around.votes[one.finding]
            cells += [_vote_cell(vote), "disagree" if _disagree(one, vote) else ""]
        table.add_row(*cells)
    return table


def _disagree(one: Prediction, vote: Vote | None) -> bool | None:
    """Return whether probe and neighbours contradict each other; None where there is no vote or no call."""
    if vote is None or one.points is None or one.call is None:
        return None
    return vote.disagrees(one.probability, one.points.youden)


def _prediction_object(one: Prediction, around: Surroundings | None) -> dict[str, Any]:
    found = asdict(one)
    found["thresholds"] = found.pop("points")
    if around is not None:
        vote = around.votes[one.finding]
        found |= {"vote": vote and asdict(vote), "disagrees": _disagree(one, vote)}
    return found


def _counterpart_object(one: Counterpart | None) -> dict[str, Any] | None:
    if one is None:
        return None
    return {"similarity": one.hit.similarity, **asdict(one.hit.study), "matched": one.matched, "relaxed": one.relaxed}


def _evidence_cells(found: Evidence | None) -> tuple[str, str]:
    """Return the AUROC with its interval, and the studies with and without the finding that it was judged on."""
    if found is None:
        return NOT_DEFINED, NOT_DEFINED
    interval = "" if found.low is None or found.high is None else f" ({found.low:.2f}\u2013{found.high:.2f})"
    auroc = NOT_DEFINED if found.auroc is None else f"{found.auroc:.2f}{interval}"
    return auroc, f"{found.positives:,}/{found.negatives:,}"


def _of_calls(report: Report) -> Iterator[str]:
    """Yield what each call means, and why others are none, those of one reason together."""
    for one in report.predictions:
        if one.meaning is not None:
            yield f"{one.finding} {one.call}: {one.meaning}"
    reasons: dict[str, list[str]] = {}
    for one in report.predictions:
        if one.no_call is not None:
            reasons.setdefault(one.no_call, []).append(one.finding)
    for reason, names in reasons.items():
        yield f"no call on {', '.join(names)}: {reason}"
    if report.around is None:
        yield "whether the film is of a kind that the probe knows was not judged; give INDEX to have that judged"


def _vote_cell(vote: Vote | None) -> str:
    if vote is None:
        return NOT_DEFINED
    return f"{vote.share:.2f} ({vote.low:.2f}\u2013{vote.high:.2f})"


def _how(report: Report) -> str:
    members, options = len(report.fingerprints), report.options
    passes = f"; {options.passes} dropout passes, seed {options.seed}" if options.passes else ""
    return f"{members} encoder{'s' if members > 1 else ''}; variants: {', '.join(options.variants)}{passes}"


def _sentences(around: Surroundings | None) -> Iterator[str]:
    if around is None:
        return
    counted = max((vote.neighbours for vote in around.votes.values() if vote), default=0)
    yield (
        f"neighbours' vote: of the most similar studies with a label for the finding, up to {counted}, the share that "
        f"has it, weighted by similarity, with its 95 % interval; {around.labels}"
    )
    yield familiarity_line(around.familiarity)
    if around.contrast is not None:
        for side, one in (("with", around.contrast.present), ("without", around.contrast.absent)):
            yield f"nearest study {side} {around.contrast.finding}: {_counterpart(one)}"


def _counterpart(one: Counterpart | None) -> str:
    if one is None:
        return "none of other patients"
    given_up = f"; not alike in {', '.join(one.relaxed)}" if one.relaxed else ""
    alike = f"alike in {', '.join(one.matched)}" if one.matched else "matched on nothing"
    return f"{one.hit.study.study_id} at {one.hit.similarity:.4f}, {alike}{given_up}"
