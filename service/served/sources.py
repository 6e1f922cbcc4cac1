"""The folders and files that are served, opened as one: encoder, probe, and the collection of each mounted index.

It opens them at start and again whenever it is asked, and refuses what does not belong together.
"""

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from encoder.errors import ImageError
from encoder.films.image import READING
from index.built.map import CollectionMap, load_map
from index.errors import FingerprintMismatch, StaleMap
from index.export.reliability import is_trained, warning_of
from index.living.additions import Writable
from index.living.collection import LivingCollection
from index.opening import Address, open_collection
from index.search.familiarity import FamiliarityGate
from index.search.texts import Texts
from index.table.studies import Study
from service.errors import ImageMissing, MountError
from service.served.batching import BatchingEmbedder
from service.served.decoding import Decoding
from service.served.disconnect import disconnect_check
from service.served.embedder import Embedder, NoEmbedder
from service.served.mounted import Mounted, MountedCollection
from service.served.mounts import Mount
from service.served.pictures import film_path, read_film
from service.served.remote import Address as RemoteAddress
from service.served.remote import RemoteEmbedder, require_same_vector
from service.served.sites import MountedSites, Sites, SitesCollection
from service.watch.metrics import Metrics

if TYPE_CHECKING:
    from encoder.findings.probe import LinearProbe
    from service.served.film_reader import Network

log = logging.getLogger("precedent.service")


class _Encoder(NamedTuple):
    stamp: tuple[int, ...]
    network: "Network | None"
    remote: RemoteEmbedder | None


@dataclass
class Sources:
    """What is served from. One caller at a time."""

    mounts: Sequence[Mount]
    """The first is asked where a request names none; none where other hospitals alone are searched."""
    encoder_path: Path | None
    """None leaves films unread: stored studies and vectors are answered."""
    probe_dir: Path | None
    """The probe that predictions come from; None leaves them to the neighbours."""
    runtime: str
    """What runs the encoder, of `encoder.runtime.runtimes.RUNTIMES`."""
    places: int
    """Studies that may be on their way to a vector at a time."""
    metrics: Metrics
    films: Decoding
    """Where films are decoded."""
    token: str = ""
    """Of the Milvus servers that ask for one."""
    device: str = "cpu"
    """What the vectors of folders are searched on, of `index.built.gpu.DEVICES`."""
    remote: RemoteAddress | None = None
    """Where films are embedded in the place of an encoder of our own."""
    texts_path: Path | None = None
    """Texts with vectors, to search by."""
    sites: Sites | None = None
    """Other hospitals, which are asked beside the first collection."""
    _encoder: _Encoder | None = None

    def open(self, name: str | None = None, served: Mounted | None = None) -> Mounted:
        """Return what is served, opened anew: all of it, or one collection beside the others that are served now.

        An encoder file that has changed is opened anew as well, and then all collections are.

        Raises:
            FingerprintMismatch: an index was built with another encoder.
            UntrustedRoot: an index that was made elsewhere names its image root, and the mount does not.
            ArtefactError, CheckpointError: a file that is missing, truncated or changed.
        """
        stamp = _stamp(self.encoder_path) if self.encoder_path is not None else ()
        kept = self._encoder if self._encoder is not None and self._encoder.stamp == stamp else None
        others = (
            {collection.name: collection for collection in served.collections}
            if served and kept and name is not None
            else {}
        )
        mounts = [mount for mount in self.mounts if not others or mount.name == name]
        with ThreadPoolExecutor(1) as pool:  # indexes are checked while torch is imported and the encoder compiled
            opening = [pool.submit(_open, mount.index_dir, self.token, self.device) for mount in mounts]
            encoder = kept or _Encoder(stamp, self._load_network(), self._connected())
            probe = self._load_probe()
            texts = Texts.load(self.texts_path) if self.texts_path is not None else None
            opened = [future.result() for future in opening]
        fresh = {
            mount.name: self._mounted(mount, living, gate, encoder, probe, texts)
            for mount, (living, gate) in zip(mounts, opened, strict=True)
        }
        collections = tuple((others | fresh)[mount.name] for mount in self.mounts)
        _require_one_encoder(collections)
        self._encoder = encoder
        return Mounted(collections, self._across(collections, encoder))

    def _across(self, collections: Sequence[MountedCollection], encoder: _Encoder) -> MountedCollection | None:
        """Return what searches other hospitals with the first collection. Raises MountError."""
        if self.sites is None:
            return None
        file = self.sites.file
        if file.name in (names := [collection.name for collection in collections]):
            raise MountError(f"expected another name of the sites than {', '.join(names)}, got {file.name!r}")
        own = collections[0] if collections else None
        embeds = own.embedder if own is not None else encoder.network.batches if encoder.network else encoder.remote
        if embeds is None:
            raise MountError("expected an index, --encoder or --embedder beside --sites, whose vectors are asked for")
        across = SitesCollection(
            self.sites, own.retriever if own is not None else None, embeds.fingerprint, embeds.embedding_dim
        )
        self.sites.look(embeds.fingerprint)
        if own is None:
            return MountedSites(file.name, across, embeds)
        return MountedSites(
            file.name, across, embeds, own.image_root, own.reader, None, None, own.trained, own.warning, own.texts
        )

    def _load_network(self) -> "Network | None":
        if self.encoder_path is None:
            return None
        from encoder.embedder import Embedder  # torch is loaded by those who serve films, not by who imports this
        from service.served.film_reader import Network

        embedder = Embedder.load(self.encoder_path, runtime=self.runtime, ignored_parts=self.films.ignored_parts)
        batches = BatchingEmbedder(
            embedder, places=self.places, disconnect_check=disconnect_check, metrics=self.metrics, films=self.films
        )
        return Network.of(embedder, batches)

    def _mounted(
        self,
        mount: Mount,
        living: Writable,
        gate: FamiliarityGate,
        encoder: _Encoder,
        probe: "LinearProbe | None",
        texts: Texts | None,
    ) -> MountedCollection:
        """Return what answers for one collection. Raises FingerprintMismatch, ArtefactError, EncoderError."""
        from service.served.film_reader import Reader

        network, remote = encoder.network, encoder.remote
        embeds: Embedder = NoEmbedder(living.fingerprint, living.embedding_dim)
        embeds = network.batches if network is not None else remote or embeds
        trained = network.embedder.trained if network is not None else None
        try:
            living.require_fingerprint(embeds.fingerprint)
            if texts is not None:
                living.require_fingerprint(texts.fingerprint)
        except FingerprintMismatch as error:
            raise FingerprintMismatch(f"collection {mount.name!r}: {error}") from None
        reasons = filter(None, (warning_of(living.manifest, trained, READING), living.patients_warning))
        if (warning := " ".join(reasons) or None) is not None:
            log.warning("collection %s: %s", mount.name, warning)
        root = mount.image_root or living.remembered_root(trusted=mount.trusted)
        if remote is not None:
            require_same_vector(remote, living, partial(_films_of, root))
        return MountedCollection(
            mount.name,
            living,
            embeds,
            root,
            Reader(network, embeds, living, gate, probe, self.films.ignored_parts),
            _map_of(living),
            living.built_at,
            is_trained(living.manifest, trained),
            warning,
            texts,
        )

    def _connected(self) -> RemoteEmbedder | None:
        if self.remote is None:
            return None
        return RemoteEmbedder(self.remote, self.films, self.metrics, self.places)

    def _load_probe(self) -> "LinearProbe | None":
        from encoder.findings.probe import LinearProbe

        return LinearProbe.load(self.probe_dir) if self.probe_dir else None


def _open(address: Address, token: str, device: str) -> tuple[Writable, FamiliarityGate]:
    living = open_collection(address, token, device)
    return living, living.gate()


def _require_one_encoder(collections: Sequence[MountedCollection]) -> None:
    """Refuse collections of several encoders, which no encoder that is here has told apart."""
    for collection in collections:
        first = collections[0]
        if collection.fingerprint != first.fingerprint:
            raise FingerprintMismatch(
                f"collection {collection.name!r} holds vectors of encoder {collection.fingerprint[:12]}, "
                f"{first.name!r} of {first.fingerprint[:12]}; serve each by itself"
            )


def _films_of(root: Path | None, study: Study) -> dict[str, bytes]:
    """Return the films of a stored study by view; none where one is not at hand."""
    try:
        return {view: read_film(film_path(root, study, view), view) for view in study.views}
    except (ImageMissing, ImageError, OSError):
        return {}


def _map_of(living: Writable) -> CollectionMap | None:
    """Return the map, where there is one of this state; a compaction that was killed may have left an older one."""
    if not isinstance(living, LivingCollection):  # a map lies in a folder
        return None
    try:
        return load_map(living.folder)
    except StaleMap as error:
        log.warning("no map is served: %s", error)
        return None


def _stamp(path: Path) -> tuple[int, ...]:
    status = path.stat()
    return status.st_ino, status.st_mtime_ns, status.st_size
