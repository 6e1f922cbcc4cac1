"""How often neighbours share a finding, measured beside chance and beside what the films' layouts alone would find."""

import numpy as np
import pyarrow as pa

from index.errors import StudiesError
from index.export.reliability import LEAST_QUERIES, Agreement, Interval, K
from index.judging.bootstrap import dealt_anew, estimates, patient_draws
from index.judging.evaluation import Pool, judge, rank
from index.judging.metrics import Values, chance_of_precision, precision_at
from index.judging.relevance import Labels, collection_rules
from index.table.labels import LabelPolicy, finding_targets, label_columns
from index.vectors import Embeddings, Rows

_DRAWS = 300


def agreement_of(studies: pa.Table, embeddings: Embeddings) -> Agreement | None:
    """Return how neighbours agree among up to a few thousand studies; None where too few of them have a finding.

    Args:
        studies: (N,) as a shard keeps them, `layouts` among the columns where there are any.
        embeddings: (N, D).
    """
    names = label_columns(studies)
    try:
        targets = finding_targets(studies, names, LabelPolicy.named("known-good"))
    except StudiesError:  # labels of another kind than ours
        return None
    rule = next(rule for rule in collection_rules(targets, names) if rule.name == "any finding")
    patients = studies["patient_id"].to_pylist()
    pool = Pool.of(embeddings, studies["study_id"].to_pylist(), patients)
    ranked = rank(pool, K)
    asked, judged = judge(pool, ranked, rule)
    values, chances = precision_at(judged, K), chance_of_precision(judged, K)
    if np.count_nonzero(~np.isnan(values)) < LEAST_QUERIES:
        return None
    columns = [values]
    if (by_layout := looks_of(studies)) is not None:
        seen = pool.seen_by(by_layout)
        pixels = precision_at(judge(seen, rank(seen, K), rule)[1], K)
        columns += [pixels, values - pixels]
    draws = patient_draws([patients[row] for row in asked], _DRAWS, seed=0)
    bounded = estimates(columns, [chances] * len(columns), draws)
    shown = [Interval.of(estimate.value, estimate.low, estimate.high) for estimate in bounded]
    least, most = np.percentile(_shuffled(rule.labels, pool.patients, ranked), (2.5, 97.5))
    value, chance = bounded[0].value, bounded[0].chance
    above = Interval.of(value - chance, value - most, value - least)
    return Agreement(bounded[0].queries, shown[0], round(chance, 4), above, *(shown[1:] or (None, None)))


def _shuffled(labels: Labels, patients: Rows, ranked: Rows) -> Values:
    """Return the same share (draws,) after the labels were dealt anew among the patients, the neighbours as they are.

    A study that is a neighbour of many makes the share vary more than drawing queries again would show.

    Args:
        ranked: (N, K) neighbours of each study, -1 where there is none.
    """
    shares = []
    for rows in dealt_anew(patients, _DRAWS, seed=0):
        dealt = labels[rows]
        agrees = (np.einsum("nc,nkc->nk", dealt, dealt[ranked]) > 0) & (ranked >= 0)
        shares.append(agrees[dealt.any(axis=1)].mean())
    return np.array(shares)


def looks_of(studies: pa.Table) -> Embeddings | None:
    """Return the layout (N, W) of each study's first film, its frontal one where there is one, in unit length."""
    if "layouts" not in studies.column_names:
        return None
    films = [layouts[0] if layouts else b"" for layouts in studies["layouts"].to_pylist()]
    width = max(map(len, films), default=0)
    if not width or any(len(film) != width for film in films):
        return None
    rows = np.frombuffer(b"".join(films), dtype=np.int8).reshape(len(films), width).astype(np.float32)
    unit: Embeddings = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1)
    return unit
