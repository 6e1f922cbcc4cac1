"""How an encoder file is typed: by its path, or by the word for the one that is shipped."""

from typing import Any

import click

from encoder.network.builtin import encoder_path
from scripts.options.places import Here


class EncoderFile(Here):
    """The path of an encoder file on this machine; `builtin` is the one that is shipped."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path. Raises as `Here` does."""
        return super().convert(str(encoder_path(value)), param, ctx)
