"""A collection on a server, added to and deleted from as one in a folder."""

import base64
import threading
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from index.engines.columns import KEY, PATIENT, SAMPLE
from index.engines.manifest import FILMS_ORIGIN
from index.engines.search import EngineSearch, Entity, Passing
from index.errors import UntrustedRoot
from index.living.added_films import FOLDER, NAME, film_path, is_added, remove_films, save_film
from index.living.additions import Addition, Writable, as_rows, is_same
from index.search.familiarity import FamiliarityGate, LayoutGate
from index.storage.origin import is_at_origin, origin_of, remembered_root
from index.storage.places import Place
from index.vectors import Embeddings, as_embedding


class EngineCollection(EngineSearch[Passing], Writable):
    """What an address meant when it was opened. Safe under threads; changes wait for each other."""

    _writing: threading.Lock
    films: str
    """The folder of the films that are added here."""

    @property
    @abstractmethod
    def server_version(self) -> str:
        """The engine's name and version, as the server says them."""

    @property
    @abstractmethod
    def changed(self) -> bool:
        """Whether studies were added or deleted since it was built."""

    @abstractmethod
    def _changing(self) -> AbstractContextManager[Self]:
        """Hold what a change needs; the view given sees all acknowledged changes, of whatever process."""

    @abstractmethod
    def _put(self, studies: Sequence[tuple[dict[str, Any], Embeddings]]) -> None:
        """Put rows with their vectors there, in the place of those of the same ids."""

    @abstractmethod
    def _drop(self, study_ids: Sequence[str]) -> None:
        """Remove studies that are there."""

    @abstractmethod
    def _is_named(self, path: str) -> bool:
        """Return whether a study names a film."""

    @abstractmethod
    def _sampled(self) -> Sequence[Entity]:
        """Return the studies that were marked when the collection was built."""

    @abstractmethod
    def _nearest_of_others(self, sampled: Sequence[Entity]) -> Sequence[float]:
        """Return of them, one a patient, the similarity to the nearest of another patient, where there is one."""

    @abstractmethod
    def entities(self) -> Iterator[tuple[dict[str, Any], npt.NDArray[np.float32], str]]:
        """Yield row, vector (D,) and digest of every study, for who looks all of them over."""

    def add(
        self,
        additions: Sequence[Addition],
        *,
        replace: bool = False,
        films: Mapping[str, bytes] | None = None,
        image_root: Path | None = None,
    ) -> list[bool]:
        """Add studies in one call, as `Writable` says; return of each whether anything was new."""
        rows = as_rows(additions, self.schema)
        vectors = [as_embedding(addition.embedding, self.embedding_dim) for addition in additions]
        with self._writing:
            with self._changing() as now:
                fresh = [
                    not is_same(now, row, vector, replace=replace, joins=addition.joins)
                    for row, vector, addition in zip(rows, vectors, additions, strict=True)
                ]
                new = [(row, vector) for row, vector, is_new in zip(rows, vectors, fresh, strict=True) if is_new]
                if not new:
                    return fresh
                for row, _ in new:
                    self._columns.plain(row)  # refused before a film is written
                if image_root is not None:
                    for path, content in (films or {}).items():
                        save_film(image_root, path, content)
                replaced = now._films_of([row[KEY] for row, _ in new])
                now._put(new)
            self._remove_unnamed(replaced, image_root)
        return fresh

    def delete(self, study_ids: Sequence[str], image_root: Path | None = None) -> None:
        """Delete studies in one call, and the films that were added with them. Raises StudyNotFound."""
        with self._writing:
            with self._changing() as now:
                for study_id in study_ids:
                    now.study(study_id)
                films = now._films_of(study_ids)
                now._drop(study_ids)
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

    def gate(self) -> FamiliarityGate:
        """Return the gate of the studies that were marked when the collection was built."""
        sampled = self._sampled()
        films = [(entity[PATIENT], base64.b64decode(film)) for entity in sampled for film in entity[SAMPLE].split()]
        layouts = pa.table({"patient_id": [patient for patient, _ in films], "layout": [film for _, film in films]})
        nearest = np.sort(np.array(self._nearest_of_others(sampled), dtype=np.float64))
        return FamiliarityGate(nearest, LayoutGate.build(layouts) if films else None)

    def _films_folder(self) -> str:
        """Return the name of the folder of added films; where it may be a copy's, one derived from its address."""
        named = str(self.manifest.get("films"))
        if NAME.fullmatch(named) and is_at_origin(self.address, self.manifest.get(FILMS_ORIGIN), named):
            return named
        return str(origin_of(self.address, named)["marks"][0])[:16]

    def _films_of(self, study_ids: Sequence[str]) -> set[str]:
        return {path for entity in self._with_ids(study_ids) for path in self.own_films(self._row(entity))}

    def _remove_unnamed(self, films: set[str], image_root: Path | None) -> None:
        """Remove the films, of those given, that no study names any more."""
        known = image_root or self._own_root()
        if known and films:
            with self._changing() as now:
                remove_films(known, [path for path in films if not now._is_named(path)])

    def _own_root(self) -> Path | None:
        try:
            root = self.remembered_root()
        except UntrustedRoot:
            return None
        return root if root is not None and not isinstance(root, Place) else None
