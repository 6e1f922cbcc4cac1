"""OHIF on loopback for scripts/pacs-demo: its files, and below /dicom-web the answers of a PACS, all as one site.

python -m scripts.pacs.ohif demo/ohif/package/dist http://localhost:8042/dicom-web 3000
"""

import json
import sys
from functools import partial
from http.client import HTTPConnection
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

from scripts.terminal import say

_BELOW = "/dicom-web"
_SOURCE = {
    "friendlyName": "Orthanc",
    "name": "orthanc",
    "qidoRoot": _BELOW,
    "wadoRoot": _BELOW,
    "qidoSupportsIncludeField": False,
    "imageRendering": "wadors",
    "thumbnailRendering": "wadors",
    "enableStudyLazyLoad": True,
    "supportsFuzzyMatching": False,
    "supportsWildcard": True,
    "omitQuotationForMultipartRequest": True,
}
_CONFIG = {
    "routerBasename": "/",
    "extensions": [],
    "modes": [],
    "showStudyList": True,
    "investigationalUseDialog": {"option": "never"},
    "defaultDataSourceName": "dicomweb",
    "dataSources": [
        {
            "namespace": "@ohif/extension-default.dataSourcesModule.dicomweb",
            "sourceName": "dicomweb",
            "configuration": _SOURCE,
        }
    ],
}


class Viewer(SimpleHTTPRequestHandler):
    """Answers with files of OHIF, and with what the PACS answers to a GET; nothing is stored through it."""

    protocol_version = "HTTP/1.1"

    def __init__(self, *request: object, pacs: str, **options: object) -> None:
        self._pacs = urlsplit(pacs)
        super().__init__(*request, **options)  # type: ignore[arg-type]  # as the server calls it

    def do_GET(self) -> None:
        """Answer one request."""
        path = urlsplit(self.path).path
        if path.startswith(f"{_BELOW}/"):
            self._pass_on()
        elif path == "/app-config.js":  # the one in the package asks a server of OHIF's
            self._answer(200, "text/javascript", f"window.config = {json.dumps(_CONFIG)};".encode())
        else:
            if not Path(self.translate_path(path)).is_file():
                self.path = "/index.html"  # a page of the viewer, such as /viewer?StudyInstanceUIDs=...
            super().do_GET()

    def _pass_on(self) -> None:
        connection = HTTPConnection(self._pacs.hostname or "localhost", self._pacs.port, timeout=60)
        try:
            asked = {"Accept": self.headers.get("Accept", "*/*")}
            connection.request("GET", self._pacs.path + self.path.removeprefix(_BELOW), headers=asked)
            answer = connection.getresponse()
            self._answer(answer.status, answer.headers.get("Content-Type", "text/plain"), answer.read())
        except OSError:
            self.send_error(502)
        finally:
            connection.close()

    def _answer(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: an address holds whose study it is."""


def main() -> None:
    """Serve the folder of OHIF until it is told to end."""
    folder, pacs, port = sys.argv[1:]
    handler = partial(Viewer, directory=folder, pacs=pacs)
    with ThreadingHTTPServer(("127.0.0.1", int(port)), handler) as server:
        say(f"OHIF on http://localhost:{server.server_port}")
        server.serve_forever()


if __name__ == "__main__":
    main()
