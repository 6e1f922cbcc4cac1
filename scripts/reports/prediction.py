"""The reading of one study as `precedent predict` prints it: a table of findings, and sentences below it."""

from collections.abc import Iterator

from rich.box import SIMPLE
from rich.table import Table

from encoder.findings.calibration import Evidence
from index.search.contrast import Counterpart
from index.search.reading import Reading
from index.search.votes import Vote
from scripts.reports.familiarity import familiarity_line
from scripts.reports.page import NOT_DEFINED
from scripts.terminal import say, show

_FIGURES = ("probability", "with/without")


def print_reading(reading: Reading) -> None:
    """Print a line a finding, then what is known of the query as a whole."""
    show(as_table(reading))
    named = (f"map of {reading.predictions[0].finding}: {facts['file']}" for facts in reading.maps)
    say(*_of_calls(reading), _how(reading), *_of_neighbours(reading), *reading.film_notices, *named)


def as_table(reading: Reading) -> Table:
    """Return a row a finding; without a collection, without a vote."""
    table = Table(box=SIMPLE, padding=(0, 1, 0, 0))
    headings = ["finding", "probability", "call", "AUROC", "with/without"]
    headings += [] if reading.labels is None else ["neighbours' vote", "flag"]
    for heading in headings:
        table.add_column(heading, justify="right" if heading in _FIGURES else "left", no_wrap=True)
    for prediction in reading.predictions:
        spread = "" if prediction.spread is None else f" ± {prediction.spread:.3f}"
        cells = [
            prediction.finding,
            f"{prediction.probability:.3f}{spread}",
            prediction.call or "no call",
            *_evidence_cells(prediction.evidence),
        ]
        if reading.labels is not None:
            cells += [_vote_cell(prediction.vote), "disagree" if prediction.disagrees else ""]
        table.add_row(*cells)
    return table


def _evidence_cells(evidence: Evidence | None) -> tuple[str, str]:
    """Return the AUROC with its interval, and the studies with and without the finding that it was judged on."""
    if evidence is None:
        return NOT_DEFINED, NOT_DEFINED
    interval = (
        "" if evidence.low is None or evidence.high is None else f" ({evidence.low:.2f}\u2013{evidence.high:.2f})"
    )
    auroc = NOT_DEFINED if evidence.auroc is None else f"{evidence.auroc:.2f}{interval}"
    return auroc, f"{evidence.positives:,}/{evidence.negatives:,}"


def _of_calls(reading: Reading) -> Iterator[str]:
    """Yield what each call means, and why others are none, those of one reason together."""
    for prediction in reading.predictions:
        if prediction.meaning is not None:
            yield f"{prediction.finding} {prediction.call}: {prediction.meaning}"
    reasons: dict[str, list[str]] = {}
    for prediction in reading.predictions:
        if prediction.no_call is not None:
            reasons.setdefault(prediction.no_call, []).append(prediction.finding)
    for reason, names in reasons.items():
        yield f"no call on {', '.join(names)}: {reason}"
    if reading.labels is None:
        yield "whether the film is unfamiliar was not checked; give INDEX to have it checked"


def _vote_cell(vote: Vote | None) -> str:
    if vote is None:
        return NOT_DEFINED
    return f"{vote.share:.2f} ({vote.low:.2f}\u2013{vote.high:.2f})"


def _how(reading: Reading) -> str:
    members, options = len(reading.fingerprints), reading.options
    passes = f"; {options.passes} dropout passes, seed {options.seed}" if options.passes else ""
    return f"{members} encoder{'s' if members > 1 else ''}; variants: {', '.join(options.variants)}{passes}"


def _of_neighbours(reading: Reading) -> Iterator[str]:
    if reading.labels is None:
        return
    counted = max((prediction.vote.neighbours for prediction in reading.predictions if prediction.vote), default=0)
    yield (
        f"neighbours' vote: of the most similar studies with a label for the finding, up to {counted}, the share that "
        f"has it, weighted by similarity, with its 95 % interval; {reading.labels}"
    )
    yield familiarity_line(reading.familiarity)
    if reading.contrast is not None:
        for side, counterpart in (("with", reading.contrast.present), ("without", reading.contrast.absent)):
            yield f"nearest study {side} {reading.contrast.finding}: {_counterpart(counterpart)}"


def _counterpart(counterpart: Counterpart | None) -> str:
    if counterpart is None:
        return "none of other patients"
    given_up = f"; not matched in {', '.join(counterpart.relaxed)}" if counterpart.relaxed else ""
    alike = f"matched in {', '.join(counterpart.matched)}" if counterpart.matched else "matched on nothing"
    return f"{counterpart.hit.study.study_id} at {counterpart.hit.similarity:.4f}, {alike}{given_up}"
