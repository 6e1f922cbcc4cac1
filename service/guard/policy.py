"""What another hospital that searches here is told: the policy file of `serve --remote-policy`, and what it lets out.

Without a word of the file the least is let out: no ids, no columns, no ages, no pictures, similarities of two decimals.
"""

import hashlib
import hmac
import math
import tomllib
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from index.errors import CollectionError, FilterError
from index.importing.pseudonyms import load_key
from index.search.answer import Hit, Query
from index.search.searchable import Searchable
from index.storage.files import read_regular
from index.table.filters import Where, require_filter
from index.table.studies import Study
from service.errors import MountError

MOST_BYTES = 1 << 16
"""Of a policy file."""
OLDEST = 90
"""Years from which on all ages are one band: so few are older that an age may name one."""
DIGITS = 32
"""Hex digits of a hashed id."""
_NEVER = frozenset({"study_id", "patient_id", "age", "views"})
"""Columns that the file does not name: `ids` and `ages` say what is let out of them."""
_OF_STUDY = ("sex", "projection", "split")


class RemotePolicy(BaseModel):
    """What is let out to whoever holds a token of the scope `remote`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    collection: str | None = Field(None, description="the one that is searched; None is the first")
    ids: Literal["absent", "hashed"] = "absent"
    key: Path | None = None
    """Of the hashes, which differ from asker to asker; a file of mode 0600."""
    patients_key: Path | None = None
    """Of the patients' hashes where hospitals share one, so that the same patient has the same hash at each."""
    columns: tuple[str, ...] = ()
    ages: Literal[0, 5, 10, 15, 30] = 0
    """Years a band; 0 lets no age out."""
    pictures: bool = False
    """Small ones of the films, without anything of their headers."""
    decimals: int = Field(2, ge=1, le=6)
    """Of similarities."""
    least_patients: int = Field(10, ge=1)
    """Behind any count: a filter that fewer pass is answered by nothing."""
    most_hits: int = Field(20, ge=1, le=100)
    queries: Literal["vectors", "films", "both"] = "vectors"
    """What may be searched by: a vector may be chosen at will, a film is embedded here."""

    @classmethod
    def load(cls, path: Path) -> Self:
        """Return the policy of a TOML file; paths in it are relative to its folder. Raises MountError."""
        try:
            read = tomllib.loads(read_regular(path, MOST_BYTES).decode())
            for name in {"key", "patients_key"} & {name for name, value in read.items() if isinstance(value, str)}:
                read[name] = path.parent / read[name]
            policy = cls.model_validate(read)
            _ = policy._keys
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise MountError(f"{str(path)!r}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
        except (CollectionError, OSError, ValueError) as error:
            raise MountError(f"expected a policy in {str(path)!r}, got none that can be read: {error}") from error
        if policy.ids == "hashed" and policy.key is None:
            raise MountError(f"{str(path)!r}: expected a key for hashed ids, got none; make one: openssl rand -hex 32")
        if policy.patients_key is not None and policy.ids != "hashed":
            raise MountError(f'{str(path)!r}: a patients_key needs ids = "hashed", got {policy.ids!r}')
        return policy

    @property
    def shares_patients(self) -> bool:
        """Whether patients are hashed under a key that hospitals share."""
        return self.patients_key is not None

    def require_columns(self, known: Iterable[str]) -> None:
        """Refuse columns that the collection does not have, or that no policy lets out. Raises MountError."""
        allowed = [name for name in known if name not in _NEVER]
        if unknown := [name for name in self.columns if name not in allowed]:
            raise MountError(
                f"expected columns of the remote policy among {', '.join(allowed)}, got {unknown[0]!r}; ids and ages "
                "have words of their own"
            )

    @cached_property
    def _keys(self) -> dict[str, bytes]:
        given = {"own": self.key, "patients": self.patients_key}
        return {name: load_key(path) for name, path in given.items() if path is not None}

    def study_hash(self, asker: str, study_id: str) -> str | None:
        """Return a study's id as one asker knows it; None where none is let out."""
        return hashed(self._keys["own"], f"{asker}:study", study_id) if self.ids == "hashed" else None

    def patient_hash(self, asker: str, patient_id: str) -> str | None:
        """Return a patient's id as an asker, or where there is a shared key every hospital, knows it."""
        if self.ids == "absent":
            return None
        shared = self._keys.get("patients")
        return patient_hash(shared, patient_id) if shared else hashed(self._keys["own"], f"{asker}:patient", patient_id)

    def narrowed(self, where: Where | None, here: Searchable) -> Where | None:
        """Return a filter with its ages widened to whole bands. Raises FilterError: of a column that is not let out."""
        if not where:
            return None
        require_filter(where, here.schema, [*self.columns, *(["age"] if self.ages else [])])
        return _banded(where, self.ages)

    def patients_enough(self, here: Searchable, vector: Any, where: Where | None) -> bool:
        """Return whether as many patients pass a filter as must stand behind a count."""
        asked = Query(vector, k=self.least_patients, where=where, group_by="patient")
        return len(here.answer(asked).hits) >= self.least_patients

    def count(self, studies: int) -> int:
        """Return a count as it is let out: down to the next multiple, so that two counts do not tell one patient."""
        return studies // self.least_patients * self.least_patients

    def let_out(self, hit: Hit, asker: str) -> dict[str, Any]:
        """Return a hit as an asker is told of it, without its pictures."""
        study = hit.study
        return {
            "rank": hit.rank,
            "similarity": max(-1.0, min(1.0, round(hit.similarity, self.decimals))),
            "study": self.study_hash(asker, study.study_id),
            "patient": self.patient_hash(asker, study.patient_id),
            "ages": band(study.age, self.ages),
            "findings": {name: label for name, label in study.findings.items() if name in self.columns},
            "facts": {name: value for name, value in _facts(study).items() if name in self.columns},
        }


def hashed(key: bytes, kind: str, identity: str) -> str:
    """Return the first hex digits of HMAC-SHA-256 over kind and id (RFC 2104)."""
    whole = hmac.new(key, f"{kind}:{identity}".encode("utf-8", "surrogatepass"), hashlib.sha256)
    return whole.hexdigest()[:DIGITS]


def patient_hash(shared: bytes, patient_id: str) -> str:
    """Return the hash of a patient under a key that hospitals share."""
    return hashed(shared, "patient", patient_id)


def band(age: float | None, width: int) -> tuple[int, int | None] | None:
    """Return the years from which and up to which, not included, an age lies; None where no age is let out."""
    if age is None or not width:
        return None
    if age >= OLDEST:
        return OLDEST, None
    lowest = int(age // width) * width
    return lowest, lowest + width


def _facts(study: Study) -> dict[str, Any]:
    return {name: getattr(study, name) for name in _OF_STUDY} | study.extra


def _banded(where: Where, width: int) -> dict[str, Any]:
    """Return a filter, whose grammar was checked, in which every range of ages is one of whole bands."""
    return {
        clause: [_banded_condition(one, width) for one in ([given] if isinstance(given, Mapping) else given)]
        for clause, given in where.items()
    }


def _banded_condition(condition: Mapping[str, Any], width: int) -> Mapping[str, Any]:
    if "key" not in condition:
        return _banded(condition, width)
    if condition["key"] != "age":
        return condition
    if "range" not in condition:
        raise FilterError("expected a range of ages, got one age; ages are let out in bands")
    wide: dict[str, float] = {}
    for bound, years in condition["range"].items():
        below = bound in ("lt", "lte")
        edge = min(OLDEST, math.floor(years / width) * width)
        if not below:
            wide["gte"] = max(edge, wide.get("gte", edge))
        elif years < OLDEST:
            edge += width if bound == "lte" or years > edge else 0
            wide["lt"] = min(edge, wide.get("lt", edge))
    return {"key": "age", "range": wide or {"gte": 0}}
