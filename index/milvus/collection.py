"""A collection on a Milvus server, or in a file of Milvus Lite: searched, added to and deleted from as one in a folder.

A change is kept by Milvus when it is acknowledged, and found by every later search.
"""

import base64
import json
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa

from index.errors import UntrustedRoot
from index.living.added_films import FOLDER, NAME, film_path, is_added, remove_films, save_film
from index.living.additions import Addition, Writable, as_rows, is_same
from index.milvus.address import MilvusAddress
from index.milvus.columns import KEY, PATIENT, SAMPLE, VECTOR
from index.milvus.filters import ALL, among, any_of, literal
from index.milvus.manifest import CHANGED, CONSISTENCIES, FILMS_ORIGIN, property_of
from index.milvus.search import MilvusSearch
from index.search.familiarity import SAMPLE as GATE_SAMPLE
from index.search.familiarity import FamiliarityGate, LayoutGate
from index.storage.origin import is_at_origin, origin_of, remembered_root
from index.storage.places import Place
from index.vectors import as_embedding

_NEIGHBOURS = 16
_ASKED_AT_ONCE = 50


class MilvusCollection(MilvusSearch, Writable):
    """The collection that an address meant when opened. Safe under threads; changes wait for each other."""

    def __init__(self, address: MilvusAddress, token: str = "") -> None:
        """Open a collection, as `MilvusSearch` says."""
        super().__init__(address, token)
        self._writing = threading.Lock()
        self._marked = bool(property_of(self._described, CHANGED))
        self.films = self._films()
        """The folder of the films that are added here."""

    def add(
        self,
        additions: Sequence[Addition],
        *,
        replace: bool = False,
        films: Mapping[str, bytes] | None = None,
        image_root: Path | None = None,
    ) -> list[bool]:
        """Add studies in one call, as `Writable` says; return of each whether anything was new.

        Of two processes that add one study at a time, the later wins.
        """
        rows = as_rows(additions, self.schema)
        vectors = [as_embedding(addition.embedding, self.embedding_dim) for addition in additions]
        with self._writing:
            now = self._caught_up()
            fresh = [
                not is_same(now, row, vector, replace=replace, joins=addition.joins)
                for row, vector, addition in zip(rows, vectors, additions, strict=True)
            ]
            new = [(row, vector) for row, vector, is_new in zip(rows, vectors, fresh, strict=True) if is_new]
            if not new:
                return fresh
            entities = [self._columns.as_entity(row, vector) for row, vector in new]
            if image_root is not None:
                for path, content in (films or {}).items():
                    save_film(image_root, path, content)
            replaced = now._films_of([row[KEY] for row, _ in new])
            self._change("upsert", entities)
            self._remove_unnamed(replaced, image_root)
        return fresh

    def delete(self, study_ids: Sequence[str], image_root: Path | None = None) -> None:
        """Delete studies in one call, and the films that were added with them. Raises StudyNotFound."""
        with self._writing:
            now = self._caught_up()
            for study_id in study_ids:
                now.study(study_id)
            films = now._films_of(study_ids)
            self._change("delete", filter=among(KEY, study_ids))
            self._remove_unnamed(films, image_root)

    def film_path(self, content: bytes, suffix: str) -> str:
        """Return where a film of an added study belongs, relative to the image root."""
        return film_path(self.films, content, suffix)

    def own_films(self, row: Mapping[str, Any]) -> list[str]:
        """Return the films of a row that were added here, relative to the image root."""
        folder = f"{FOLDER}/{self.films}/"
        paths = (row["frontal_path"] or "", row["lateral_path"] or "")
        return [path for path in paths if path.startswith(folder) and is_added(path)]

    def remembered_root(self, *, trusted: bool = False) -> Path | None:
        """Return the image root that the collection names; as `Writable` says."""
        return remembered_root(self.address, self.manifest, trusted=trusted)

    def _films(self) -> str:
        """Return the name of the folder of added films; where it may be a copy's, one derived from its address."""
        named = str(self.manifest.get("films"))
        if NAME.fullmatch(named) and is_at_origin(self.address, self.manifest.get(FILMS_ORIGIN), named):
            return named
        return str(origin_of(self.address, named)["marks"][0])[:16]

    @property
    def changed(self) -> bool:
        """Whether studies were added or deleted since it was built."""
        return bool(property_of(self._server.describe(self._name) or {}, CHANGED))

    def gate(self) -> FamiliarityGate:
        """Return the gate of the studies that were marked when the collection was built."""
        entities = self._query(f"{SAMPLE} is not null", (KEY, PATIENT, SAMPLE, VECTOR))
        firsts = {
            entity[PATIENT]: entity for entity in sorted(entities, key=lambda entity: str(entity[KEY]), reverse=True)
        }
        nearest = self._nearest_of_others(list(firsts.values())[:GATE_SAMPLE])
        films = [(entity[PATIENT], base64.b64decode(film)) for entity in entities for film in entity[SAMPLE].split()]
        layouts = pa.table({"patient_id": [patient for patient, _ in films], "layout": [film for _, film in films]})
        return FamiliarityGate(np.sort(np.array(nearest)), LayoutGate.build(layouts) if films else None)

    def _nearest_of_others(self, asked: Sequence[Mapping[str, Any]]) -> list[float]:
        """Return the similarity of each study to the nearest of another patient, where there is one."""
        nearest: list[float] = []
        for start in range(0, len(asked), _ASKED_AT_ONCE):
            group = asked[start : start + _ASKED_AT_ONCE]
            answers = self._hits([entity[VECTOR] for entity in group], ALL, _NEIGHBOURS)
            for entity, hits in zip(group, answers, strict=True):
                others = [hit for hit in hits if hit["entity"][PATIENT] != entity[PATIENT]] or self._hits(
                    [entity[VECTOR]], f"{PATIENT} != {literal(entity[PATIENT])}", 1
                )[0]
                nearest += [float(hit["distance"]) for hit in others[:1]]
        return nearest

    def _change(self, method: str, *arguments: Any, **named: Any) -> None:
        """Change the collection; on a server its log holds the change by then, in a file of Milvus Lite the disk."""
        if not self._marked:
            self._server.call("alter_collection_properties", self._name, {CHANGED: json.dumps(True)})
            self._marked = True
        self._server.call(method, self._name, *arguments, **named)
        if self.address.file is not None:
            self._server.call("flush", self._name)

    def _caught_up(self) -> Self:
        """Return a view that sees all acknowledged changes, of whatever process: on it is judged what to change."""
        now = self.now()
        now._level = CONSISTENCIES["strong"]
        return now

    def _films_of(self, study_ids: Sequence[str]) -> set[str]:
        entities = self._query(among(KEY, study_ids))
        return {path for entity in entities for path in self.own_films(self._columns.as_row(entity))}

    def _remove_unnamed(self, films: set[str], image_root: Path | None) -> None:
        """Remove the films, of those given, that no study names any more."""
        known, now = image_root or self._own_root(), self._caught_up()
        fields = [self._columns.fields[name] for name in ("frontal_path", "lateral_path")]
        if known:
            gone = [path for path in films if not now._count(any_of(among(field, [path]) for field in fields))]
            remove_films(known, gone)

    def _own_root(self) -> Path | None:
        try:
            root = self.remembered_root()
        except UntrustedRoot:
            return None
        return root if root is not None and not isinstance(root, Place) else None
