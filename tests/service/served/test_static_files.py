"""The page's own files are compressed, and asked for again only once they are others."""

import gzip
import re
from pathlib import Path

from flask.testing import FlaskClient
from service_world import build_client

from service.served.static_files import StaticFiles


def address(client: FlaskClient) -> str:
    """Return where the page has its script."""
    [found] = re.findall(r'src="(/static/[0-9a-f]{16}/page/page.js)"', client.get("/").text)
    return str(found)


def test_a_script_is_compressed_and_kept_for_as_long_as_it_stays_the_same() -> None:
    client = build_client()
    plain = client.get(address(client))
    packed = client.get(address(client), headers={"Accept-Encoding": "br, gzip"})

    assert gzip.decompress(packed.data) == plain.data
    assert (packed.content_encoding, plain.content_encoding, plain.mimetype) == ("gzip", None, "text/javascript")
    assert len(packed.data) < len(plain.data) / 2
    assert packed.headers["Vary"] == plain.headers["Vary"] == "Accept-Encoding"
    for one in (packed, plain):
        assert {"public", "immutable", "max-age=31536000"} == set(one.headers["Cache-Control"].split(", "))


def test_a_file_without_its_version_is_asked_for_each_time_and_not_sent_anew() -> None:
    client = build_client()
    first = client.get("/static/css/page.css")
    again = client.get("/static/css/page.css", headers={"If-None-Match": first.headers["ETag"]})

    assert (first.status_code, again.status_code, again.data) == (200, 304, b"")
    assert "no-cache" in first.headers["Cache-Control"]


def test_a_change_of_any_file_changes_all_addresses(tmp_path: Path) -> None:
    (tmp_path / "page.js").write_text("let a")
    before = StaticFiles.of(tmp_path).version
    (tmp_path / "page.js").write_text("let b")

    assert StaticFiles.of(tmp_path).version != before


def test_nothing_beside_these_files_is_sent() -> None:
    client = build_client()
    for path in ("../app.py", "%2e%2e/app.py", "0123456789abcdef/page/page.js", "", "page", "/etc/passwd"):
        assert client.get(f"/static/{path}").status_code == 404
