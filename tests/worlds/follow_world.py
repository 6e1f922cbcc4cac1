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
from results_world import save_probe

from encoder.embedder import Embedder
from encoder.films.image import READING
from encoder.findings.probe import LinearProbe
from index.built.collection import save_collection
from index.built.vector_index import VectorIndex
from index.living.collection import LivingCollection
from index.table.studies import Study, studies_schema
from scripts.pacs.destination import ByWeb, parse_destination
from scripts.pacs.feed import Feed
from scripts.pacs.follow import Follower
from scripts.pacs.inbox import Inbox
from scripts.pacs.outbox import Outbox
from scripts.pacs.rest import Pacs
from scripts.pacs.returning import ResultMaker, parse_kinds
from scripts.pacs.sending import Returner, films_known

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

    def __init__(
        self,
        folder: Path,
        embedder: Embedder,
        server: Orthanc | str | None = None,
        *,
        returned: tuple[str, str] | None = None,
        settle: float = 0.0,
        **options: Any,
    ) -> None:
        if not (folder / "index").exists():
            save_collection_of(folder, embedder)
        self.folder = folder
        self.inbox = Inbox(folder / "state", settle, options.get("pseudonyms"))
        self.inbox.tidy()
        self.living = LivingCollection(folder / "index")
        self.outbox = None if returned is None else Outbox(folder / "state", options.get("pseudonyms"))
        ours = None if self.outbox is None else self.outbox.is_ours
        address = server.url if isinstance(server, Orthanc) else server
        self.feed = None if address is None else Feed(Pacs(address, retries=0), self.inbox, listing=0.0, ours=ours)
        self.follower = Follower(
            self.inbox,
            self.living,
            embedder,
            folder / "images",
            feed=self.feed,
            outbox=self.outbox,
            **({"longest_wait": 0.0} | options),
        )
        if self.outbox is not None:
            self.outbox.tidy()
            self.returner = self._returner(embedder, *(returned or ()))

    def _returner(self, embedder: Embedder, kinds: str, to: str) -> Returner:
        assert self.outbox is not None
        if not (self.folder / "probe").exists():
            save_probe(self.folder / "probe", embedder)
        destination = parse_destination(to)
        if isinstance(destination, ByWeb):
            destination = ByWeb(Pacs(to, retries=0))
        ways = [films_known(self.outbox)]
        maker = ResultMaker(embedder, LinearProbe.load(self.folder / "probe"), self.living, ways)
        return Returner(
            self.outbox,
            maker,
            parse_kinds(kinds),
            destination,
            self.living,
            self.folder / "images",
            there=(lambda place: True) if self.feed is None else self.feed.has,
            longest_wait=0.0,
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

    def send(self) -> None:
        """Return results until none waits."""
        ends = time.monotonic() + PATIENCE
        while self.returner.step():
            assert time.monotonic() < ends, self.outbox

    def returned(self) -> dict[str, int]:
        """Return how many results have which fate."""
        assert self.outbox is not None
        return {f"{one['kind']} {one['fate']}": one["count"] for one in self.outbox.counts()["results"]}
