"""The hospital's own viewer, in which a study opens: its address is a template, given when the service is started."""

import re
from typing import Any
from urllib.parse import quote

from flask import has_app_context

from service.context import running
from service.errors import MountError

PLACEHOLDER = "{StudyInstanceUID}"
SCHEMES = ("https", "http", "weasis")
MAX_TEMPLATE = 2000
_TEMPLATE = re.compile(r"[!#-&(-;=?-\[\]_a-z{}~]+")
"""Of ASCII all that an address may hold: no space, quotation mark, angle bracket, backslash, circumflex or bar."""


def parse_viewer(text: str) -> str:
    """Return the template of a viewer's addresses; "" where there is none.

    Raises:
        MountError: another scheme than https, http and weasis, a password, or not exactly one placeholder, which
            stands behind the host.
    """
    template = text.strip()
    if not template:
        return ""
    scheme, sign, rest = template.partition("://")
    if len(template) > MAX_TEMPLATE or not _TEMPLATE.fullmatch(template) or not sign or scheme.lower() not in SCHEMES:
        raise MountError(
            f"expected the address of a viewer that begins with https://, http:// or weasis://, without spaces and "
            f"quotation marks, got {text[:100]!r}"
        )
    before, _, after = rest.partition(PLACEHOLDER)
    if PLACEHOLDER not in rest or re.search("[{}]", before + after) or not re.search("[/?#]", before):
        raise MountError(
            f"expected one {PLACEHOLDER} in the address of a viewer, behind its host, such as "
            f"https://pacs.example/viewer?StudyInstanceUIDs={PLACEHOLDER}, got {text[:100]!r}"
        )
    if "@" in re.split("[/?#]", rest)[0]:  # every reader is shown the address
        raise MountError("expected the address of a viewer without a name and a password, got one with '@' in its host")
    return template


def viewer_url(study_uid: Any) -> str | None:
    """Return where the hospital's viewer shows a study of that UID; None without a UID, a viewer or a service."""
    if not study_uid or not has_app_context() or not running.limits.viewer:
        return None
    address: str = running.limits.viewer.replace(PLACEHOLDER, quote(str(study_uid), safe=""))
    return address
