"""`precedent audit-shortcuts`: what vectors tell beside findings, and what retrieval loses without it.

precedent audit-shortcuts embeddings/ --out shortcuts/ --images films/
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np

from encoder.films.borders import border_share
from index.errors import StudiesError
from index.export.shards import load_layouts
from index.judging.agreement import looks_of
from index.judging.bootstrap import patient_draws
from index.judging.evaluation import Pool
from index.judging.relevance import Rule, class_rule, collection_rules, single_rules
from index.judging.shortcuts import Attribute, attributes_of, losses
from scripts.options.body_parts import ignored_parts
from scripts.options.collection_address import device_option
from scripts.options.labelled_exports import Embedded, Wanted, label_options
from scripts.options.places import Anywhere, Here
from scripts.reports.shortcuts import publish
from scripts.terminal import counted
from scripts.work.raw_pixels import first_films
from scripts.work.readout import CHANCE, Readout, read_out

LEAST_BORDER = 0.02
"""Share of a film below which its border is not called wide, though half of all had a narrower one."""


@click.command()
@click.argument("embeddings", type=Anywhere())
@click.option("--out", type=Here(), required=True, help="Folder for metrics.json and report.html.")
@click.option(
    "--column",
    "columns",
    multiple=True,
    help="A further column of the table to look at, e.g. Manufacturer. Repeatable.",
)
@click.option("--images", type=Anywhere(), help="Image root; adds film borders, measured from the films themselves.")
@ignored_parts
@label_options()
@click.option("-k", default=5, show_default=True, type=click.IntRange(1), help="Number of hits to count.")
@click.option(
    "--queries", type=click.IntRange(1), default=2000, show_default=True, help="Studies drawn to ask; all answer."
)
@click.option("--folds", type=click.IntRange(2), default=5, show_default=True, help="Folds of patients of the probes.")
@click.option(
    "--draws", type=click.IntRange(500), default=1000, show_default=True, help="Bootstrap samples for the intervals."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of folds, bootstrap and queries.")
@device_option("auto", "What finds the neighbours, which are the same on each.")
@click.option("--json", "json_wanted", is_flag=True, help="Print the figures as JSON.")
def command(
    embeddings: Path,
    out: Path,
    columns: tuple[str, ...],
    images: Path | None,
    ignored: frozenset[str],
    findings: str | None,
    classes: tuple[str, ...],
    policy: str,
    blank: str,
    k: int,
    queries: int,
    folds: int,
    draws: int,
    seed: int,
    device: str,
    json_wanted: bool,
) -> None:
    """Measure how well sex, projection, source, age, devices and film borders are read from the export EMBEDDINGS.

    Beside each, how much of the neighbours' agreement in findings is left where query and hit must differ in it.

    \b
    precedent audit-shortcuts embeddings/ --out shortcuts/ --images films/
    """
    export, wanted = Embedded.load([embeddings]), Wanted.parse(findings, classes, policy, blank)
    attributes = attributes_of(export.studies, columns)
    if images is not None:
        shares = np.array(first_films(export.studies, images, border_share, "borders", ignored))
        bar = max(float(np.median(shares)), LEAST_BORDER)
        words = [f"above {bar:.1%}" if share > bar else f"up to {bar:.1%}" for share in shares]
        attributes.append(Attribute.of("film border", words, export.patients))
    known = [attribute for attribute in attributes if attribute.why_not is None]
    if not known:
        reasons = "; ".join(f"{attribute.name}: {attribute.why_not}" for attribute in attributes)
        raise StudiesError(f"nothing to look at in {str(embeddings)!r}: {reasons}")
    weights = patient_draws(export.patients, draws, seed)
    layouts = load_layouts(embeddings)
    looks = None if layouts is None or layouts.num_rows != len(export.ids) else looks_of(layouts)
    read = read_out(export, known, looks, folds, seed, weights)
    lost = {
        attribute.name: _losses(export, wanted, attribute, k, queries, draws, seed, device)
        for attribute in counted(known, "losses", "")
    }
    protocol = [
        wanted.sentence(),
        f"{len(export.ids):,} studies of {len(set(export.patients)):,} patients, none of a query's own patient its hit",
        f"read by a linear probe a group on patients that it has not seen, in {folds} folds; AUROC by chance {CHANCE}; "
        "floor: the same from the films' coarse looks, without an encoder",
        f"precision@{k} of {queries:,} queries at most: among all candidates; among as many relevant ones and others "
        "as differ, drawn of all (as few); among those that differ, with the same chance",
        "lost: the second less the third; its 95 % interval is by dealing labels anew among the patients of each group",
        f"95 % intervals of AUROC by bootstrap over patients: {draws} draws, seed {seed}",
        *([] if images else ["film borders left out: they are measured from films, and --images names none"]),
        *export.patients_sentence(),
    ]
    metrics = {
        "fingerprint": export.fingerprint,
        "protocol": protocol,
        "k": k,
        "attributes": {
            attribute.name: _entry(attribute, read.get(attribute.name), lost.get(attribute.name))
            for attribute in attributes
        },
        "warning": export.warning,
    }
    publish(out, metrics, as_json=json_wanted)


def _losses(
    export: Embedded, wanted: Wanted, attribute: Attribute, k: int, queries: int, draws: int, seed: int, device: str
) -> dict[str, Any]:
    """Return what each rule loses where hits must differ in an attribute, among the studies whose group is known."""
    rows = np.flatnonzero(attribute.codes >= 0)
    part, codes = export.take(rows), replace(attribute, codes=attribute.codes[rows])
    asking = np.arange(len(rows))
    if queries < len(rows):
        asking = np.sort(np.random.default_rng(seed).choice(len(rows), queries, replace=False))
    pool = replace(Pool.of(part.embeddings, part.ids, part.patients, asking), device=device)
    weights = patient_draws([part.patients[row] for row in asking], draws, seed)
    lost = losses(pool, codes, _rules(part, wanted, attribute), k, weights)
    return {rule.name: {name: vars(figure) for name, figure in vars(loss).items()} for rule, loss in lost}


def _rules(export: Embedded, wanted: Wanted, attribute: Attribute) -> Sequence[Rule]:
    """Return the rule over all findings or classes, then one each; a finding that is itself the attribute is none."""
    names = wanted.names(export.studies)
    kept = [place for place, name in enumerate(names) if name != attribute.column]
    targets, names = wanted.targets(export.studies)[:, kept], [names[place] for place in kept]
    if wanted.classes:
        return [class_rule(targets, names), *single_rules(targets, names)]
    first = next(rule for rule in collection_rules(targets, names) if rule.name == "any finding")
    return [first, *single_rules(targets, names)]


def _entry(attribute: Attribute, read: Readout | None, lost: dict[str, Any] | None) -> dict[str, Any]:
    """Return an attribute's entry of the report."""
    counts = {group: int((attribute.codes == code).sum()) for code, group in enumerate(attribute.groups)}
    entry: dict[str, Any] = {"groups": counts, "unknown": int((attribute.codes < 0).sum())}
    if read is None or lost is None:
        return entry | {"not_defined": attribute.why_not}
    first = next(iter(lost.values()))["lost"]
    return entry | {
        "auroc": vars(read.auroc),
        "chance": CHANCE,
        "floor": None if read.floor is None else vars(read.floor),
        "above_floor": None if read.above_floor is None else vars(read.above_floor),
        "by_group": {group: vars(area) for group, area in read.groups.items()},
        "readable": bool(read.auroc.low > CHANCE),
        "leaned_on": bool(first["low"] > 0),
        "retrieval": lost,
    }
