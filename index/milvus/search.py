"""Search in a collection on a Milvus server, or in a file of Milvus Lite, that answers as one in a folder does."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from index.engines.columns import KEY, PATIENT, VECTOR
from index.engines.search import EngineSearch, Entity
from index.errors import BeyondBackend
from index.milvus.address import MilvusAddress
from index.milvus.client import BUILD_SECONDS, MilvusServer
from index.milvus.columns import Fields
from index.milvus.filters import ALL, all_of, among, any_of, as_expression, literal
from index.milvus.manifest import CONSISTENCIES, consistency_of, manifest_of
from index.milvus.recall import search_params
from index.table.filters import Where

MOST_FETCHED = 16_384
"""Studies that Milvus gives in one answer."""


class MilvusSearch(EngineSearch[str]):
    """What an address meant when it was opened. Safe under threads; a search sees all acknowledged changes of this
    process, and those of others as its `consistency` says."""

    address: MilvusAddress
    _columns: Fields

    def __init__(self, address: MilvusAddress, token: str = "") -> None:
        """Open a collection.

        Raises:
            NotOnMilvus: it is not there. ArtefactError: it is half filled or not ours.
            BackendUnavailable: the server does not answer. CollectionError: pymilvus is missing.
        """
        self.address = address
        self._server = MilvusServer(address, token)
        described = self._described = self._server.call("describe_collection", address.collection)
        self._name: str = described["collection_name"]  # an alias that is moved later changes no search of this one
        manifest = manifest_of(described, address)
        self._take(manifest, Fields.of(manifest, address))
        self.consistency = consistency_of(self.manifest)
        """One of CONSISTENCIES."""
        self._level = CONSISTENCIES[self.consistency]
        self._server.call("load_collection", self._name, seconds=BUILD_SECONDS)

    def close(self) -> None:
        """Let go of the server."""
        self._server.close()

    def __len__(self) -> int:
        return self._count("")

    def _narrowed(self, where: Where | None, left: Mapping[str, str]) -> tuple[str, int]:
        """Return the expression of what passes, and how many do; without a filter by counting the few left out."""
        wanted = ALL if not where else as_expression(where, self._columns)
        passing = all_of([wanted, *(f"{field} != {literal(value)}" for field, value in left.items())])
        if wanted != ALL:
            return passing, self._count(passing)
        out = any_of(f"{field} == {literal(value)}" for field, value in left.items())
        return passing, self._count("") - (self._count(out) if left else 0)

    def _near(
        self, vector: npt.NDArray[np.float32], passing: str, count: int, exact: bool
    ) -> tuple[Sequence[Entity], bool]:
        if count > MOST_FETCHED:
            raise BeyondBackend(
                f"expected a search that {MOST_FETCHED:,} studies can answer, the most that Milvus returns at a time; "
                "ask for fewer hits, or narrow the filter"
            )
        hits = self._hits([vector], passing, count, exact=exact, fields=("*",))[0]
        return [dict(hit["entity"]) for hit in hits], exact or self.manifest["kind"] == "flat"

    def _hits(
        self,
        vectors: Sequence[Any],
        passing: str,
        count: int,
        *,
        exact: bool = False,
        fields: Sequence[str] = (PATIENT,),
    ) -> list[list[Any]]:
        """Return the hits of each query as pymilvus has them, the nearest first by its own reckoning."""
        probes = self.manifest["lists"] if exact and self.manifest["probes"] else self.manifest["probes"]
        answered = self._server.call(
            "search",
            self._name,
            data=list(vectors),
            anns_field=VECTOR,
            limit=count,
            output_fields=list(fields),
            filter="" if passing == ALL else passing,
            search_params=search_params(probes),
            consistency_level=self._level,
        )
        answers = [list(hits) for hits in answered]
        if len(answers) != len(vectors) or any(len(hits) > count for hits in answers):
            raise self._nonsense(f"{len(answers)} answers of up to {max(map(len, answers), default=0)} hits")
        return answers

    def _count(self, expression: str) -> int:
        counted = list(self._asked(expression, ("count(*)",)))
        if len(counted) != 1 or not isinstance(counted[0].get("count(*)"), int) or counted[0]["count(*)"] < 0:
            raise self._nonsense("no count")
        return int(counted[0]["count(*)"])

    def _with_ids(self, study_ids: Sequence[str]) -> Sequence[Entity]:
        return self._query(among(KEY, study_ids))

    def _row(self, entity: Entity) -> dict[str, Any]:
        return self._columns.as_row(entity)

    def _vector(self, entity: Entity) -> Any:
        return entity.get(VECTOR) or ()

    def _query(self, expression: str, fields: Sequence[str] = ("*",)) -> list[dict[str, Any]]:
        return list(map(dict, self._asked(expression, fields, limit=MOST_FETCHED)))

    def _asked(self, expression: str, fields: Sequence[str], **options: Any) -> Any:
        return self._server.call(
            "query", self._name, filter=expression, output_fields=list(fields), consistency_level=self._level, **options
        )
