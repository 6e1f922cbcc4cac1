"""`precedent evaluate`: measure how often similar studies of other patients share a finding, compared with chance.

precedent evaluate embeddings/ --out eval/ --floor untrained=embeddings_untrained/
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np

from index.errors import StudiesError
from index.judging.bootstrap import Draws, patient_draws
from index.judging.evaluation import Pool, figures, rank, same_patient_first
from index.judging.relevance import Rule, class_rule, collection_rules, single_rules
from index.storage.places import place
from index.table.splits import parts_of, require_disjoint_patients
from index.vectors import Rows
from scripts.options.body_parts import ignored_parts
from scripts.options.collection_address import device_option
from scripts.options.labelled_exports import Embedded, Wanted, label_options
from scripts.options.places import Anywhere, Here
from scripts.reports.evaluation import publish
from scripts.work.raw_pixels import raw_pixels

MAIN = "embeddings"
PREFIXES = (384, 256)
QUERIES_UNASKED = 5000
"""Queries that are drawn where --queries is not given; up to twice as many are all asked."""
_PATH = Here()


@click.command()
@click.argument("embeddings", type=Anywhere())
@click.option("--out", type=_PATH, required=True, help="Folder for metrics.json and report.html.")
@click.option(
    "--query-embeddings", type=Anywhere(), help="Another export, whose studies are the queries; EMBEDDINGS is searched."
)
@click.option("--splits", type=_PATH, help="Split file (from train), or official, that the two parts below refer to.")
@click.option("--query-part", help="Part of the split whose studies are the queries, e.g. test.")
@click.option("--gallery-part", help="Part of the split that is searched, e.g. train (default: every study).")
@click.option(
    "--queries", type=click.IntRange(1), help="Number of queries (default: all); the same ones are drawn each time."
)
@click.option("--ks", default="1,5,10", show_default=True, help="Numbers of hits to count, separated by commas.")
@label_options()
@click.option(
    "--floor",
    multiple=True,
    metavar="NAME=FOLDER",
    help="Another export as a baseline that EMBEDDINGS should beat. Repeatable.",
)
@click.option(
    "--also", multiple=True, metavar="NAME=FOLDER", help="Another export to report beside EMBEDDINGS. Repeatable."
)
@click.option("--pixels", type=Anywhere(), help="Image root; adds a baseline of raw pixels at 32 x 32.")
@ignored_parts
@click.option(
    "--draws", type=click.IntRange(500), default=1000, show_default=True, help="Bootstrap samples for the intervals."
)
@click.option(
    "--seed", type=int, default=0, show_default=True, help="Seed of the bootstrap; changes the intervals only."
)
@device_option("auto", "What finds the neighbours, which are the same on each.")
@click.option("--json", "json_wanted", is_flag=True, help="Print the figures as JSON.")
def command(
    embeddings: Path,
    out: Path,
    query_embeddings: Path | None,
    ks: str,
    findings: str | None,
    classes: tuple[str, ...],
    policy: str,
    blank: str,
    floor: tuple[str, ...],
    also: tuple[str, ...],
    pixels: Path | None,
    ignored: frozenset[str],
    draws: int,
    seed: int,
    device: str,
    json_wanted: bool,
    **asked: Any,
) -> None:
    """Measure how often the nearest studies in the export EMBEDDINGS share a finding with the query.

    Hits of the query's own patient never count. --floor and --also take a second folder after a comma, with the
    studies of --query-embeddings.

    \b
    precedent evaluate embeddings/ --out eval/ --class normal:'No Finding=1' --class ill:'No Finding=0'
    """
    wanted = Wanted.parse(findings, classes, policy, blank)
    depths = _parse_ks(ks)
    folders = {MAIN: [embeddings, *([query_embeddings] if query_embeddings else [])]}
    below, beside = (dict(map(_named_folders, texts)) for texts in (floor, also))
    exports = _common(folders | below | beside, wanted)
    main = exports[MAIN]
    pool = Pool.of(main.embeddings, main.ids, main.patients, *_roles(main, query_embeddings, **asked))
    pool = replace(pool, device=device)
    spaces = {name: pool.seen_by(export.embeddings) for name, export in exports.items()}
    spaces |= {f"first {dim}": pool.prefix(dim) for dim in PREFIXES if dim < main.embeddings.shape[1]}
    floors = [*below, *(["raw pixels"] if pixels else [])]
    if pixels:
        spaces["raw pixels"] = pool.seen_by(raw_pixels(main.studies, pixels, ignored))
    weights = patient_draws([main.patients[row] for row in pool.queries], draws, seed)
    rules, singles = _rules(main, wanted)
    figures_of = {name: judged(space, rules, singles, depths, weights) for name, space in spaces.items()}
    protocol = [*_protocol(pool, wanted, draws, seed), *main.patients_sentence()]
    if asked["splits"]:
        parts = f"{asked['query_part'] or 'every part'} asks, {asked['gallery_part'] or 'every part'} answers"
        protocol.append(f"split {asked['splits']}: {parts}")
    metrics = {
        "fingerprint": main.fingerprint,
        "protocol": protocol,
        "ks": depths,
        "floors": floors,
        "spaces": figures_of,
        "warning": main.warning,
    }
    publish(out, metrics, as_json=json_wanted)


def judged(
    pool: Pool,
    rules: Sequence[Rule],
    singles: Sequence[Rule],
    ks: Sequence[int],
    draws: Draws,
) -> dict[str, Any]:
    """Return all figures of one space: by rule, by finding, and the privacy figure."""
    ranked = rank(pool, max(ks))
    return {
        "embedding_dim": pool.embeddings.shape[1],
        "rules": {rule.name: _of_rule(pool, ranked, rule, ks, draws) for rule in rules},
        "findings": {rule.name: _of_rule(pool, ranked, rule, ks, draws) for rule in singles},
        "same_patient_precision@1": vars(same_patient_first(pool, draws)),
    }


def _of_rule(pool: Pool, ranked: Rows, rule: Rule, ks: Sequence[int], draws: Draws) -> dict[str, Any]:
    estimates = {name: vars(estimate) for name, estimate in figures(pool, ranked, rule, ks, draws).items()}
    by_rule: dict[str, Any] = {"sentence": rule.sentence, "figures": estimates}
    if not any(estimate["queries"] for estimate in estimates.values()):
        by_rule["not_defined"] = "no query has a label of this rule that another patient's study shares"
    return by_rule


def _rules(export: Embedded, wanted: Wanted) -> tuple[list[Rule], list[Rule]]:
    targets, names = wanted.targets(export.studies), wanted.names(export.studies)
    if wanted.classes:
        return [class_rule(targets, names)], single_rules(targets, names)
    return collection_rules(targets, names), single_rules(targets, names)


def _common(folders: dict[str, list[Path]], wanted: Wanted) -> dict[str, Embedded]:
    """Return the exports, each cut to the studies that all have and, where classes are judged, that are of one."""
    exports = {name: Embedded.load(paths) for name, paths in folders.items()}
    main = exports[MAIN]
    common = set.intersection(*(set(export.ids) for export in exports.values()))
    if wanted.classes:
        common &= set(main.take(np.flatnonzero(~np.isnan(wanted.targets(main.studies)).all(1))).ids)
    kept = [study_id for study_id in main.ids if study_id in common]
    if not kept:
        raise StudiesError("expected studies that are in every export and belong to a class, got none")
    rows = {name: {study_id: row for row, study_id in enumerate(export.ids)} for name, export in exports.items()}
    return {name: export.take([rows[name][study_id] for study_id in kept]) for name, export in exports.items()}


def _roles(
    export: Embedded,
    query_embeddings: Path | None,
    *,
    splits: Path | None,
    query_part: str | None,
    gallery_part: str | None,
    queries: int | None,
) -> tuple[Rows, Rows]:
    """Return the rows that ask and the rows that answer."""
    asking = answering = np.arange(len(export.ids))
    if query_embeddings:
        others = np.isin(export.ids, Embedded.load([query_embeddings]).ids)
        asking, answering = np.flatnonzero(others), np.flatnonzero(~others)
    if (query_part or gallery_part) and not splits:
        raise click.UsageError("--query-part and --gallery-part need --splits")
    if splits and not (query_part or gallery_part):
        raise click.UsageError("--splits alone has no effect; choose parts of it by --query-part and --gallery-part")
    parts = parts_of(splits, export.studies) if splits else {}
    require_disjoint_patients(export.patients, parts)
    for part in (query_part, gallery_part):
        if part and part not in parts:
            raise StudiesError(f"no part {part!r} in {str(splits)!r}; there are: {', '.join(parts)}")
    asking = np.intersect1d(asking, parts[query_part]) if query_part else asking
    answering = np.intersect1d(answering, parts[gallery_part]) if gallery_part else answering
    if not len(asking) or not len(answering):
        raise StudiesError(
            f"expected studies to query with and studies to search, got {len(asking)} and {len(answering)}"
        )
    wanted = queries or (QUERIES_UNASKED if len(asking) > 2 * QUERIES_UNASKED else len(asking))
    if wanted < len(asking):
        asking = np.sort(np.random.default_rng(0).choice(asking, wanted, replace=False))
    return asking, answering


def _protocol(pool: Pool, wanted: Wanted, draws: int, seed: int) -> list[str]:
    return [
        wanted.sentence(),
        f"{len(pool.queries):,} queries, {len(pool.candidates):,} candidates; no hit of the query's own patient",
        "a query that has no label of a rule, or no relevant candidate, is left out of it",
        "a hit whose label is ignored counts as not relevant, and so it does in chance",
        "chance is the expectation of a random order of the same candidates",
        f"95 % intervals by bootstrap over the patients of the queries: {draws} draws, seed {seed}",
    ]


def _named_folders(text: str) -> tuple[str, list[Path]]:
    name, sign, folders = text.partition("=")
    if not name or not sign or not folders or name == MAIN:
        raise click.UsageError(f"expected NAME=FOLDER, the name not {MAIN!r}, got {text!r}")
    return name, [place(folder) for folder in folders.split(",")]


def _parse_ks(text: str) -> list[int]:
    try:
        ks = sorted({int(part) for part in text.split(",")})
    except ValueError:
        ks = [0]
    if ks[0] < 1:
        raise click.UsageError(f"expected numbers of hits like 1,5,10, got {text!r}")
    return ks
