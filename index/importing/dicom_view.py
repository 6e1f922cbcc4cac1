"""Which view and projection a DICOM header says a film has, from every place where it may say so.

The places are View Position, View Code Sequence (PS3.3, C.8.11.5; PS3.16, CID 4010), Patient Orientation
(PS3.3, C.7.6.1.1.1) and the words of the series, in English, German, French, Spanish and Italian.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

FRONTAL, LATERAL, NEITHER = "frontal", "lateral", "neither"
PROJECTIONS = ("AP", "PA", "LL", "RL", "LLD", "RLD", "LLO", "RLO", "LAO", "RAO", "LPO", "RPO")


@dataclass(frozen=True)
class Said:
    """A view (frontal, lateral, neither, or "" for unknown) and a projection of `PROJECTIONS`, or "" for unknown."""

    view: str = ""
    projection: str = ""


@dataclass(frozen=True)
class View:
    """What a header says as a whole: frontal, lateral or "", the projection, and whether its places disagree."""

    view: str
    projection: str
    disputed: bool


# PS3.16, CID 4010: the SNOMED CT identifier and the SNOMED RT one that older files have.
_CODES = {
    **dict.fromkeys(("399348003", "R-10206"), Said(FRONTAL, "AP")),
    **dict.fromkeys(("272479007", "R-10214", "R-40888"), Said(FRONTAL, "PA")),
    **dict.fromkeys(("399033003", "R-10202"), Said(FRONTAL)),
    **dict.fromkeys(("399173006", "R-10236", "399118008", "G-5223"), Said(LATERAL, "LL")),
    **dict.fromkeys(("399198007", "R-10232", "399297009", "G-5222"), Said(LATERAL, "RL")),
    **dict.fromkeys(("399067008", "R-102CD", "399352003", "R-10228", "399260004", "R-10224"), Said(LATERAL)),
    **dict.fromkeys(("399135007", "R-10220"), Said(NEITHER, "LAO")),
    **dict.fromkeys(("399356000", "R-40985"), Said(NEITHER, "RAO")),
    **dict.fromkeys(("399006002", "R-10212"), Said(NEITHER, "LPO")),
    **dict.fromkeys(("399038007", "R-10210"), Said(NEITHER, "RPO")),
    **dict.fromkeys(("102536004", "F-10319"), Said(NEITHER, "LLD")),
    **dict.fromkeys(("102535000", "F-10317"), Said(NEITHER, "RLD")),
    **dict.fromkeys(
        (
            *("32185000", "F-10318", "399182000", "R-102C1", "399312000", "R-10208", "399059000", "R-10216"),
            *("399236003", "R-10234", "399184004", "R-10238", "260427002", "R-40783", "260426006", "R-40782"),
            *("399160007", "R-10204", "399368009", "R-10226", "399099002", "R-10230", "399225005", "R-10250"),
            *("399288005", "R-10248", "399004004", "R-10246", "399061009", "R-10241", "399132005", "R-10252"),
            *("399325008", "R-10254", "399110001", "R-102C2"),
        ),
        Said(NEITHER),
    ),
}
_PARTS = ("CHEST", "THORAX", "TORAX", "TORACE", "CXR", "LUNGS", "LUNG", "LUNGE", "POUMONS", "RX")
_ANTERIOR = r"ANT(?:ERO|ERIORE?|ERIEURE?)?"
_POSTERIOR = r"POST(?:ERO|ERIORE?|ERIEURE?)?"
_JOINED = (  # written in several ways and then as one word
    (rf"\b{_ANTERIOR} ?(?:TO |A |AL |VERS |NACH )?{_POSTERIOR}\b", "AP"),
    (rf"\b{_POSTERIOR} ?(?:TO |A |AL |VERS |NACH )?{_ANTERIOR}\b", "PA"),
    (r"\bVENTRO ?DORSALE?R?\b", "AP"),
    (r"\bDORSO ?VENTRALE?R?\b", "PA"),
    (r"\bLATERO ?LATERALE?\b", "LATERAL"),
    (r"\b(RECHTS|LINKS|RE|LI|R|L) ANLIEGEND\b", r"\1 LATERAL"),  # that side at the detector
    (r"\bDECUBIT(?:US|O) (?:DORSALE?|SUPINO)\b", "SUPINE"),  # on the back; the others lie on a side
)
_FRONTAL = {"FRONTAL", "FRONTALE", "FRONTALES", "FRONTALER", "FACE", "FRENTE", "AP", "PA", "ANTERO", "POSTERO"}
_LATERAL = {
    *("LL", "RL", "LAT", "LLAT", "RLAT", "LTLAT", "RTLAT", "LATERAL", "LATERALE", "LATERALES", "LATERALER"),
    *("SEITLICH", "SEITLICHE", "SEITLICHER", "SEITL", "PROFIL", "PROFILE", "PROFILO", "PERFIL"),
}
_NEITHER = re.compile(r"LLD|RLD|L[AP]O|R[AP]O|LLO|RLO|OBL|OBLI[QCG].*|SCHRAG.*|SCHRAEG.*|DECUB.*|.*SEITENLAGE")
_LYING = {
    *("SUPINE", "SUPINO", "SUPINA", "BEDSIDE", "LIEGEND", "LIEGENDAUFNAHME", "BETT", "BETTAUFNAHME", "BETTAUFN"),
    *("LIT", "COUCHE", "COUCHEE", "ALLONGE", "ALLONGEE", "CAMA", "ENCAMADO", "ENCAMADA", "LETTO", "ALLETTATO"),
}
_PORTABLE = {"PORTABLE", "PORTATIL", "PORTATILE"}
_LEFT = {"LEFT", "LINKS", "LI", "GAUCHE", "IZQUIERDA", "IZQUIERDO", "IZQ", "SINISTRA", "SINISTRO", "LLAT", "LTLAT"}
_RIGHT = {"RIGHT", "RECHTS", "RE", "DROIT", "DROITE", "DERECHA", "DERECHO", "DESTRA", "DESTRO", "RLAT", "RTLAT"}


def view_of(
    *,
    codes: Sequence[tuple[str, str]] = (),
    position: str = "",
    orientation: Sequence[str] = (),
    series: Sequence[str] = (),
    study: Sequence[str] = (),
) -> View:
    """Return the view that most places say; of as many for two, the place that stands first here.

    Decubitus and oblique films are neither view, and are so where the words of the series alone say it, for their
    code and position are those of a frontal. Words of the study count only where nothing else says a view, since
    they are those of all its films; last comes that somebody lies, which makes a frontal. A frontal of somebody
    lying or from a portable unit is AP where nothing says more.

    Args:
        codes: value and meaning of each view code and of its modifiers.
        orientation: where rows and columns run to, such as ("L", "F").
        series: words about this film, the first that say a view count.
    """
    words = _first(said_by_words(text) for text in series)
    said = [_said_by_codes(codes), said_by_words(position), _said_by_axes(orientation), words]
    every_word = _words(" ".join((position, *series, *study)))
    if not any(hint.view for hint in said):
        lying = Said(FRONTAL, "AP") if every_word & _LYING else Said()
        said = [_first((*(said_by_words(text) for text in study), lying))]
    views = [hint.view for hint in said if hint.view]
    if words.view == NEITHER and LATERAL not in views:
        view, disputed = NEITHER, False
    else:
        counts = Counter(views)
        view = max(views, key=lambda value: counts[value], default="")
        disputed = len(counts) > 1
    projections = [hint.projection for hint in said if hint.view == view and hint.projection]
    projection = projections[0] if projections else ""
    if not projections and view in ("", FRONTAL) and every_word & (_PORTABLE | _LYING):
        projection = "AP"
    return View("" if view == NEITHER else view, projection, disputed or len(set(projections)) > 1)


def said_by_words(text: str) -> Said:
    """Return what words say of the view: nothing where they name both, or a body part alone."""
    words = _words(text)
    neither = {word for word in words if _NEITHER.fullmatch(word)}
    if neither:
        return Said(NEITHER, _only(neither.intersection(PROJECTIONS)))
    frontal, lateral = bool(words & _FRONTAL), bool(words & _LATERAL)
    if frontal and lateral:
        return Said()
    if lateral:
        sides = words & {"LL", "RL"} if len(words) == 1 else set()  # in Italian words LL is latero-laterale
        sides |= ({"LL"} if words & _LEFT else set()) | ({"RL"} if words & _RIGHT else set())
        return Said(LATERAL, _only(sides))
    return Said(FRONTAL, _only(words & {"AP", "PA"})) if frontal else Said()


def _said_by_codes(codes: Sequence[tuple[str, str]]) -> Said:
    """Return what the first known code says, else the first meaning; neither view where any says so."""
    said = [_CODES.get(value.upper()) or said_by_words(meaning) for value, meaning in codes]
    return next((hint for hint in said if hint.view == NEITHER), _first(said))


def _said_by_axes(orientation: Sequence[str]) -> Said:
    """Where columns run head to foot: rows that run left or right are a frontal, front or back a lateral."""
    axes = [axis.strip().upper()[:1] for axis in orientation]
    if len(axes) != 2 or axes[1] not in ("F", "H"):
        return Said()
    return Said({"L": FRONTAL, "R": FRONTAL, "A": LATERAL, "P": LATERAL}.get(axes[0], ""))


def _first(said: Iterable[Said]) -> Said:
    return next((hint for hint in said if hint.view), Said())


def _only(projections: set[str]) -> str:
    return next(iter(projections)) if len(projections) == 1 else ""


def _words(text: str) -> set[str]:
    """Return the words in plain capitals: "Thorax p.a.", "ChestPA" and "postéro-antérieur" all have PA."""
    plain = "".join(sign for sign in unicodedata.normalize("NFKD", text) if not unicodedata.combining(sign))
    plain = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", plain).upper()
    plain = re.sub(r"\b(?:[A-Z][.\-/] ?){1,2}[A-Z]\b", lambda dotted: re.sub("[^A-Z]", "", dotted[0]), plain)
    plain = " ".join(re.findall("[A-Z]+", plain))
    plain = re.sub(r"\b([AP]) ([AP])\b", r"\1\2", plain)
    for written, word in _JOINED:
        plain = re.sub(written, word, plain)
    words = set(plain.split())
    parts = [(word, part) for word in words for part in _PARTS if part in word]
    return words | {word.removeprefix(part).removesuffix(part) for word, part in parts}
