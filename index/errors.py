"""What the index refuses.

Each is a `ValueError` whose message says what was expected, what was found, and the remedy.
"""


class CollectionError(ValueError):
    """Something given to the index wing cannot be used."""


class StudiesError(CollectionError):
    """A source table or a studies table that breaks its own rules."""


class FilterError(CollectionError):
    """A filter that names an unknown column or compares with a wrong type."""


class VectorsError(CollectionError):
    """Embeddings of a wrong shape, not finite, or not of unit norm."""


class FingerprintMismatch(CollectionError):
    """Two artefacts that were made by different encoders."""


class ReadingMismatch(CollectionError):
    """Films that were read by two versions, whose vectors would stand in one collection."""


class ArtefactError(CollectionError):
    """A file of ours that is missing, truncated, or changed since it was written."""


class MixedPatients(CollectionError):
    """Films of two patients that were given as one study."""


class StudyNotFound(CollectionError):
    """A study id that this collection does not hold."""


class StudyExists(CollectionError):
    """A study id that this collection holds already, with other content."""


class WriteFailed(CollectionError):
    """A change that could not be brought to the disk; what was there before is as it was."""


class StaleMap(ArtefactError):
    """A map of another state of its collection, as a build or a killed compaction leaves it."""


class UntrustedRoot(CollectionError):
    """An image root that a collection names which was made elsewhere, or by another user."""


class NoGpu(CollectionError):
    """A GPU that was asked for and is not there, is not used by the installed FAISS, or is too small."""


class PlaceError(CollectionError):
    """An address that cannot be used, or not for what is asked of it."""


class BackendUnavailable(CollectionError):
    """A server that keeps files or vectors for us and does not answer, or refuses to, at present."""


class BackendLoading(BackendUnavailable):
    """A server that answers and has not all of the collection in memory yet."""


class BeyondBackend(CollectionError):
    """What the server that keeps the vectors cannot do, and we do not approximate."""
