"""What makes a hit relevant: named rules over label matrices."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from index.table.labels import Targets
from index.table.studies import COMPETITION_FINDINGS

Labels = npt.NDArray[np.float32]
"""(N, C): 1 where the label holds, else 0."""
Gain = Callable[[Labels, Labels], Labels]
"""Maps the labels of Q queries and N candidates to gains (Q, N) in [0, 1]."""


def shared(queries: Labels, candidates: Labels) -> Labels:
    """Return 1 where query and candidate have a label in common, (Q, N)."""
    return (queries @ candidates.T > 0).astype(np.float32)


def same_set(queries: Labels, candidates: Labels) -> Labels:
    """Return 1 where query and candidate have the very same labels, (Q, N)."""
    common = queries @ candidates.T
    sizes = queries.sum(1)[:, None], candidates.sum(1)
    return ((common == sizes[0]) & (common == sizes[1])).astype(np.float32)


def jaccard(queries: Labels, candidates: Labels) -> Labels:
    """Return shared labels over labels of either, (Q, N); 0 where neither has one."""
    common = queries @ candidates.T
    either = queries.sum(1)[:, None] + candidates.sum(1) - common
    return common / np.maximum(either, 1)


@dataclass(frozen=True)
class Rule:
    """One notion of relevance. A query without any of its labels defines nothing and is left out."""

    name: str
    sentence: str
    gain: Gain
    labels: Labels
    """(N, C) of every study."""
    metrics: tuple[str, ...]
    """Names in `index.judging.metrics.METRICS` that make sense for it."""


_BINARY = ("precision", "recall", "map", "ndcg", "mrr")


def collection_rules(targets: Targets, findings: Sequence[str]) -> list[Rule]:
    """Return the rules over the targets (N, C) of all findings: any of five, any, exact set, Jaccard."""
    labels = _present(targets)
    rules = [
        Rule("any finding", f"shares any of {len(findings)} findings", shared, labels, _BINARY),
        Rule("exact set", "has exactly the same findings", same_set, labels, _BINARY),
        Rule("jaccard", "gain = shared findings / findings of either", jaccard, labels, ("ndcg",)),
    ]
    five = [column for column, name in enumerate(findings) if name in COMPETITION_FINDINGS]
    if five:
        sentence = f"shares any of {', '.join(findings[column] for column in five)}"
        rules.insert(0, Rule("any of five", sentence, shared, labels[:, five], _BINARY))
    return rules


def class_rule(targets: Targets, names: Sequence[str]) -> Rule:
    """Return the rule of exclusive classes (N, C)."""
    return Rule("same class", f"is of the same class of {', '.join(names)}", shared, _present(targets), _BINARY)


def single_rules(targets: Targets, names: Sequence[str]) -> list[Rule]:
    """Return a rule a finding or class: the query has it, the hit has it."""
    labels = _present(targets)
    return [
        Rule(name, f"both have {name}", shared, labels[:, [column]], ("precision", "map"))
        for column, name in enumerate(names)
    ]


def _present(targets: Targets) -> Labels:
    return (targets == 1).astype(np.float32)
