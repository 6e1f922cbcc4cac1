"""The pieces of a report that stands alone: one HTML page, its tables and its pictures as inline SVG."""

import html
import io
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from index.printable import visible
from index.storage.files import written_whole

NOT_DEFINED = "n/a"
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1d2328; max-width: 72rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.6rem } h2 { font-size: 1.2rem; margin-top: 2.5rem; border-bottom: 1px solid #cfd6dc }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums }
th, td { padding: .25rem .7rem; border-bottom: 1px solid #e3e8ec; text-align: right; white-space: nowrap }
th:first-child, td:first-child { text-align: left } th { background: #f3f5f7 }
.wide { overflow-x: auto } svg { max-width: 100%; height: auto } footer { margin-top: 3rem; color: #5b6670 }
"""


def number(value: float) -> str:
    """Return a figure with three decimals, or n/a where it is not defined."""
    return NOT_DEFINED if math.isnan(value) else f"{value:.3f}"


def number_with_interval(value: float, low: float, high: float) -> str:
    """Return a figure and, where it is known, its interval in brackets."""
    return number(value) if math.isnan(low) else f"{number(value)} ({low:.3f}\u2013{high:.3f})"


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return an HTML table; cells are text and are escaped."""
    head = "".join(f"<th>{_text(heading)}</th>" for heading in headings)
    body = "".join("<tr>" + "".join(f"<td>{_text(cell)}</td>" for cell in row) + "</tr>\n" for row in rows)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>'


def sentences(texts: Iterable[str]) -> str:
    """Return an HTML list of sentences."""
    return "<ul>" + "".join(f"<li>{_text(text)}</li>\n" for text in texts) + "</ul>"


def picture(figure: Figure, label: str) -> str:
    """Return the figure as inline SVG, the same bytes for the same figure."""
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "precedent", "svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    drawing = buffer.getvalue()
    drawing = drawing[drawing.index("<svg") :]
    return drawing.replace("<svg", f'<svg role="img" aria-label="{_text(label)}"', 1)


def save_page(path: Path, title: str, lead: Sequence[str], sections: Iterable[tuple[str, str]]) -> None:
    """Write the page, whole or not at all: a title, opening sentences, then (heading, HTML) sections."""
    body = "".join(f"<h2>{_text(heading)}</h2>\n{content}\n" for heading, content in sections)
    page = (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{_text(title)}</title>'
        f"<style>{_STYLE}</style></head>\n<body><h1>{_text(title)}</h1>\n{sentences(lead)}\n{body}"
        "<footer>Precedent. Research use only; not a medical device.</footer></body></html>\n"
    )
    with written_whole(path) as partial:
        partial.write_text(page, encoding="utf-8")


def _text(text: str) -> str:
    """Return a text as HTML shows it, what cannot be seen in it as its escape."""
    return html.escape(visible(text))
