"""A collection that follows a PACS, in one process and without waiting."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from film_files import RAMP, picture
from living_world import ids_of
from pacs_world import Orthanc

from encoder.embedder import Embedder
from encoder.films.image import READING
from index.built.collection import save_collection
from index.built.vector_index import VectorIndex
from index.living.collection import LivingCollection
from index.table.studies import Study, studies_schema
from scripts.pacs.feed import Feed
from scripts.pacs.follow import Follower
from scripts.pacs.inbox import Inbox
from scripts.pacs.rest import Pacs

SEED = "patient00000/study1"
"""The one study that the collection has at first: none can be empty."""
PATIENCE = 30.0


def save_collection_of(folder: Path, embedder: Embedder) -> None:
    """Write `index/` with one study and the image root `images/`."""
    (folder / "images").mkdir()
    (folder / "images/seed.png").write_bytes(picture((RAMP >> 4).astype(np.uint8)))
    vectors = embedder.embed_study(folder / "images/seed.png", None)[None]
    row = {"study_id": SEED, "patient_id": "patient00000", "frontal_path": "seed.png", "other_paths": []}
    schema = studies_schema().append(pa.field("views", pa.list_(pa.string())))
    table = pa.Table.from_pylist([dict.fromkeys(schema.names) | row | {"views": ["frontal"]}], schema)
    (folder / "index").mkdir()
    facts = {"fingerprint": embedder.fingerprint, "image_root": None, "reading": READING}
    save_collection(folder / "index", VectorIndex.build(vectors, "flat"), table, None, **facts)


class Followed:
    """What follows, and what it has made of it."""

    def __init__(self, folder: Path, embedder: Embedder, server: Orthanc | str | None = None, **options: Any) -> None:
        if not (folder / "index").exists():
            save_collection_of(folder, embedder)
        self.folder = folder
        self.inbox = Inbox(folder / "state", 0.0, options.get("pseudonyms"))
        self.inbox.tidy()
        self.living = LivingCollection(folder / "index")
        address = server.url if isinstance(server, Orthanc) else server
        self.feed = None if address is None else Feed(Pacs(address, retries=0), self.inbox, listing=0.0)
        self.follower = Follower(
            self.inbox, self.living, embedder, folder / "images", feed=self.feed, **({"longest_wait": 0.0} | options)
        )

    def until(self, reached: Callable[[], bool]) -> None:
        """Follow until something is reached."""
        ends = time.monotonic() + PATIENCE
        while not reached():
            assert time.monotonic() < ends, self.inbox.counts()
            self.follower.turn()

    def look(self) -> bool:
        """Ask the PACS now, and deal with what is settled; return whether more waits."""
        self.follower._next_look = 0.0
        return self.follower.turn()

    def settle(self, turns: int = 2) -> None:
        """Follow until nothing waits, so many looks at the PACS at least: what is gone has to be missing twice."""
        for _ in range(turns):
            self.look()
        self.until(lambda: self.inbox.counts()["studies_waiting"] == 0)

    def ids(self) -> list[str]:
        """Return the studies that have come."""
        return [one for one in ids_of(self.living) if one != SEED]

    def study(self, study_id: str) -> Study:
        """Return a study."""
        return self.living.now().study(study_id)

    def fates(self) -> dict[str, int]:
        """Return how many films have which fate."""
        counts: dict[str, int] = self.inbox.counts()["films"]
        return counts
