"""What the index refuses.

Each is a `ValueError` whose message says what was expected, what was found, and the remedy.
"""


class CollectionError(ValueError):
    """Something given to the index cannot be used."""


class StudiesError(CollectionError):
    """A source table or a studies table that breaks its own rules."""


class FilterError(CollectionError):
    """A filter that names an unknown column or compares with a wrong type."""


class VectorsError(CollectionError):
    """Embeddings of a wrong shape, not finite, or not of unit norm."""


class FingerprintMismatch(CollectionError):
    """Two artefacts that were made by different encoders."""


class ReadingMismatch(CollectionError):
    """Films read by two versions of this software, whose vectors would be in one collection."""


class ArtefactError(CollectionError):
    """A file of Precedent that is missing, truncated, or changed since it was written."""


class MixedPatients(CollectionError):
    """Films of two patients that were given as one study."""


class StudyNotFound(CollectionError):
    """A study id that this collection does not hold."""


class TextNotFound(CollectionError):
    """A text that no vector was given of."""


class StudyExists(CollectionError):
    """A study id that this collection holds already, with other content."""


class WriteFailed(CollectionError):
    """A change that could not be written to disk; nothing was changed."""


class RegionError(CollectionError):
    """A part of a film that cannot be searched by."""


class RegionsMissing(CollectionError):
    """Feature maps of films that a search by region needs and that were not kept."""


class StaleMap(ArtefactError):
    """A map of an earlier state of its collection, which a build or a killed compaction has left."""


class UntrustedRoot(CollectionError):
    """An image root that a collection names which was made elsewhere, or by another user."""


class NoGpu(CollectionError):
    """A GPU that was asked for and is not there, is not used by the installed FAISS, or is too small."""


class PlaceError(CollectionError):
    """An address that cannot be used, or not for this purpose."""


class BackendUnavailable(CollectionError):
    """A store or database server that does not answer, or refuses to, at present."""


class BackendLoading(BackendUnavailable):
    """A database server that is starting, or still loading the collection."""


class BeyondBackend(CollectionError):
    """A search that a server cannot do exactly, and that is not approximated."""
