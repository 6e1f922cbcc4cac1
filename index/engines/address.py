"""What every address of a collection on a server says."""

from typing import ClassVar


class ServerAddress:
    """Where a collection is that a server keeps; `str` gives what the command line takes."""

    collection: str
    """The name that searches ask by: it means what was built last under it."""
    engine: ClassVar[str]
    """The engine's own name."""
    backend: ClassVar[str]
    """What `precedent index --backend` calls it."""

    @property
    def name(self) -> str:
        """The collection's name, as a folder has one."""
        return self.collection

    @property
    def build_command(self) -> str:
        """What fills it."""
        return f"precedent index EMBEDDINGS --backend {self.backend} --uri {self}"
