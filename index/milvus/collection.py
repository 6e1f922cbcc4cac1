"""A collection on a Milvus server, or in a file of Milvus Lite: searched, added to and deleted from as one in a folder.

A change is kept by Milvus when it is acknowledged, and found by every later search. Of two processes that add one study
at a time, the later wins.
"""

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from index.engines.collection import EngineCollection
from index.engines.columns import DIGEST, KEY, PATIENT, SAMPLE, VECTOR
from index.engines.search import Entity
from index.milvus.address import MilvusAddress
from index.milvus.columns import as_vector
from index.milvus.filters import ALL, among, any_of, literal
from index.milvus.manifest import CHANGED, CONSISTENCIES, property_of
from index.milvus.search import MilvusSearch
from index.search.familiarity import SAMPLE as GATE_SAMPLE
from index.vectors import Embeddings

_NEIGHBOURS = 16
_ASKED_AT_ONCE = 50


class MilvusCollection(MilvusSearch, EngineCollection[str]):
    """The collection that an address meant when opened. Safe under threads; changes wait for each other."""

    def __init__(self, address: MilvusAddress, token: str = "") -> None:
        """Open a collection, as `MilvusSearch` says."""
        super().__init__(address, token)
        self._writing = threading.Lock()
        self._marked = threading.Event()
        if property_of(self._described, CHANGED):
            self._marked.set()
        self.films = self._films_folder()

    @property
    def server_version(self) -> str:
        """The engine's name and version, as the server says them."""
        return f"Milvus {str(self._server.call('get_server_version'))[:40]}"

    @property
    def changed(self) -> bool:
        """Whether studies were added or deleted since it was built."""
        return bool(property_of(self._server.describe(self._name) or {}, CHANGED))

    @contextmanager
    def _changing(self) -> Iterator[Self]:
        now = self.now()
        now._level = CONSISTENCIES["strong"]
        yield now

    def _put(self, studies: Sequence[tuple[dict[str, Any], Embeddings]]) -> None:
        self._change("upsert", [self._columns.as_entity(row, vector) for row, vector in studies])

    def _drop(self, study_ids: Sequence[str]) -> None:
        self._change("delete", filter=among(KEY, study_ids))

    def _change(self, method: str, *arguments: Any, **named: Any) -> None:
        """Change the collection; on a server its log holds the change by then, in a file of Milvus Lite the disk."""
        if not self._marked.is_set():
            self._server.call("alter_collection_properties", self._name, {CHANGED: json.dumps(True)})
            self._marked.set()
        self._server.call(method, self._name, *arguments, **named)
        if self.address.file is not None:
            self._server.call("flush", self._name)

    def _is_named(self, path: str) -> bool:
        fields = [self._columns.fields[name] for name in ("frontal_path", "lateral_path")]
        return self._count(any_of(among(field, [path]) for field in fields)) > 0

    def _sampled(self) -> Sequence[Entity]:
        return self._query(f"{SAMPLE} is not null", (KEY, PATIENT, SAMPLE, VECTOR))

    def _nearest_of_others(self, sampled: Sequence[Entity]) -> Sequence[float]:
        firsts = {
            entity[PATIENT]: entity for entity in sorted(sampled, key=lambda entity: str(entity[KEY]), reverse=True)
        }
        asked, nearest = list(firsts.values())[:GATE_SAMPLE], list[float]()
        for start in range(0, len(asked), _ASKED_AT_ONCE):
            group = asked[start : start + _ASKED_AT_ONCE]
            answers = self._hits([entity[VECTOR] for entity in group], ALL, _NEIGHBOURS)
            for entity, hits in zip(group, answers, strict=True):
                others = [hit for hit in hits if hit["entity"][PATIENT] != entity[PATIENT]] or self._hits(
                    [entity[VECTOR]], f"{PATIENT} != {literal(entity[PATIENT])}", 1
                )[0]
                nearest += [float(hit["distance"]) for hit in others[:1]]
        return nearest

    def entities(self) -> Iterator[tuple[dict[str, Any], npt.NDArray[np.float32], str]]:
        """Yield row, vector (D,) and digest of every study, for who looks all of them over."""
        iterator = self._server.call(
            "query_iterator", self._name, batch_size=500, filter="", output_fields=["*"], consistency_level="Strong"
        )
        try:
            while batch := self._next(iterator):
                for entity in batch:
                    yield self._row(entity), as_vector(entity), str(entity[DIGEST])
        finally:
            iterator.close()

    def _next(self, iterator: Any) -> list[Any]:
        with self._server.telling():
            return list(iterator.next())
