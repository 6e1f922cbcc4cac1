"""Where an argument of the command line may point: to a path of this machine alone, or to an address as well."""

from pathlib import Path
from typing import Any

import click

from index.storage.places import place


class Here(click.Path):
    """A path of this machine; an address is refused by name."""

    def __init__(self, **checks: Any) -> None:
        """Take what `click.Path` is to check of it."""
        super().__init__(path_type=Path, **checks)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path. Raises what `place` does for an address that no verb takes."""
        if isinstance(value, str) and not isinstance(place(value), Path):
            self.fail(f"expected a path of this machine, got {value!r}; copy it here first", param, ctx)
        return super().convert(value, param, ctx)


class Anywhere(click.Path):
    """A path of this machine, which click checks, or an address such as s3://bucket/films, which the verb finds out."""

    def __init__(self, **checks: Any) -> None:
        """Take what `click.Path` is to check of a path of this machine."""
        super().__init__(path_type=Path, **checks)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return a `Path`, or a `Place`, which stands where one does. Raises PlaceError."""
        where = place(value) if isinstance(value, str) else value
        return super().convert(value, param, ctx) if isinstance(where, Path) else where


images_option = click.option(
    "--images",
    type=Anywhere(file_okay=False),
    required=True,
    help="Image root: the folder that the paths in the table start from.",
)
"""Of verbs that read the films of a table."""
