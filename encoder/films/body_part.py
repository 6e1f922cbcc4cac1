"""Which body part a DICOM header says was filmed, as far as shows a film that is no chest film.

The words are those of DICOM PS3.16, annex L.
"""

from collections.abc import Container, Iterable

DESCRIPTIONS = ("SeriesDescription", "ProtocolName", "AcquisitionDeviceProcessingDescription")
"""Where a header speaks of the film itself in words of its own; the study's description speaks of all its films."""
_CHEST = frozenset(("CHEST", "THORAX", "LUNG", "RIB", "HEART"))
_PARTS = """
    ABDOMEN ANKLE ARM BLADDER BRAIN BREAST BUTTOCK CALCANEUS CALF CARPUS CLAVICLE COCCYX COLON CSPINE EAR ELBOW
    EXTREMITIES EXTREMITY EYE FACE FEET FEMUR FIBULA FINGER FOOT FOREARM HAND HEAD HEEL HIP HUMERUS ILIUM JAW JOINT
    KIDNEY KNEE LEG LIMB LSPINE MANDIBLE MAXILLA MOUTH NECK NOSE ORBIT PATELLA PELVIS PHALANX RADIUS RADIUSULNA
    SACRUM SCAPULA SHOULDER SINUS SINUSES SKULL SPINE SSPINE STOMACH TARSUS TEETH THIGH THUMB TIBIA TIBIAFIBULA TMJ
    TOE TOOTH TSPINE ULNA WRIST ZYGOMA
"""
_ELSEWHERE = frozenset(_PARTS.split())


def is_elsewhere(stated: str, descriptions: Iterable[str], ignored: Container[str] = ()) -> bool:
    """Return whether a header states another part than the chest, and none of its descriptions names a chest.

    Args:
        ignored: parts, in capitals, that count as not stated, such as a console's wrong default.
    """
    if stated.upper() in ignored or part_elsewhere(stated) is None:
        return False
    return part_elsewhere(" ".join((stated, *descriptions))) is not None


def as_parts(stated: Iterable[str]) -> frozenset[str]:
    """Return parts in capitals, as `is_elsewhere` compares them."""
    return frozenset(part.strip().upper() for part in stated)


def stated_part(part: str, regions: Iterable[str]) -> str:
    """Return BodyPartExamined, else the meanings of AnatomicRegionSequence; "" where neither is there."""
    return part or " ".join(regions).strip()


def part_elsewhere(stated: str) -> str | None:
    """Return the first word that names another part than the chest; None where there is none, or a chest word too.

    A word in another language or of a house's own says nothing: headers are wrong or odd too often (Gueld et al.,
    SPIE 2002, found 15 % of body parts wrong) for more than a plain contradiction to count.
    """
    letters = "".join(letter if letter.isalpha() else " " for letter in stated.upper())
    words = [word for written in letters.split() for word in (written, written.removesuffix("S"))]
    if _CHEST.intersection(words):
        return None
    return next((word for word in words if word in _ELSEWHERE), None)
