"""How many lists a search on Milvus has to read so that it finds what comparing every vector finds."""

from typing import Any

from index.built.collection import ENOUGH_RECALL
from index.built.effort import EFFORTS
from index.engines.columns import KEY, SAMPLE, VECTOR
from index.milvus.client import BUILD_SECONDS, MilvusServer

_ASKED = 100
_NEAREST = 11
"""Ten, and the study itself."""


def search_params(probes: int) -> dict[str, Any]:
    """Return the parameters of a search that reads so many lists; of one without lists for 0."""
    return {"metric_type": "IP", "params": {"nprobe": probes} if probes else {}}


def with_enough_probes(server: MilvusServer, name: str, rows: int, lists: int) -> tuple[int, float]:
    """Return the fewest lists that find 99 % of the ten nearest, or the most that are tried, and what they find."""
    entities = server.call(
        "query",
        name,
        filter=f"{SAMPLE} is not null",
        limit=_ASKED,
        output_fields=[KEY, VECTOR],
        consistency_level="Strong",
    )
    asked = {entity[KEY]: entity[VECTOR] for entity in entities}
    truth = _nearest(server, name, asked, lists, rows)
    for effort in EFFORTS:
        probes = min(effort.probes, lists)
        recall = _share(truth, _nearest(server, name, asked, probes, rows))
        if recall >= ENOUGH_RECALL or probes == lists:
            break
    return probes, recall


def _nearest(server: MilvusServer, name: str, asked: dict[str, Any], probes: int, rows: int) -> list[set[str]]:
    """Return the ids nearest to each query, itself left out."""
    answers = server.call(
        "search",
        name,
        seconds=BUILD_SECONDS,
        data=list(asked.values()),
        anns_field=VECTOR,
        limit=min(_NEAREST, rows),
        output_fields=[KEY],
        search_params=search_params(probes),
        consistency_level="Strong",
    )
    return [{hit[KEY] for hit in hits} - {own} for own, hits in zip(asked, answers, strict=True)]


def _share(truth: list[set[str]], answered: list[set[str]]) -> float:
    shares = [len(true & got) / max(len(true), 1) for true, got in zip(truth, answered, strict=True)]
    return sum(shares) / max(len(shares), 1)
