"""What was found in a study as a Comprehensive 3D SR: a measurement report (PS3.16, TID 1500), a group a finding."""

import hashlib
from collections.abc import Sequence

from highdicom.sr import (
    AlgorithmIdentification,
    CodedConcept,
    Comprehensive3DSR,
    DeviceObserverIdentifyingAttributes,
    Measurement,
    MeasurementReport,
    MeasurementsAndQualitativeEvaluations,
    ObservationContext,
    ObserverContext,
    QualitativeEvaluation,
    RelationshipTypeValues,
    SourceImageForMeasurementGroup,
    TextContentItem,
    TrackingIdentifier,
)
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from index.importing.dicom_header import OUR_MANUFACTURER, OUR_MODEL
from index.search.reading import FindingReading, Reading
from scripts.pacs.results import NOTICE, VERSION, SourceFilm, completed, equipment, plain_text, uid_of, uids_of

SERIES = 9601
SCHEME = "99PRECEDENT"
_FINDINGS = {
    "Atelectasis": Code("46621007", "SCT", "Atelectasis"),
    "Cardiomegaly": codes.SCT.Cardiomegaly,
    "Consolidation": Code("95436008", "SCT", "Pulmonary consolidation"),
    "Edema": codes.SCT.PulmonaryEdema,
    "Fracture": Code("125605004", "SCT", "Fracture of bone"),
    "Pleural Effusion": codes.SCT.PleuralEffusion,
    "Pneumonia": Code("233604007", "SCT", "Pneumonia"),
    "Pneumothorax": codes.SCT.Pneumothorax,
}
"""CheXpert's findings that SNOMED CT has a concept of the same meaning for: that of DICOM's context groups where they
name any (PS3.16, annex B). Others are codes of our own scheme."""
_PROCEDURE = Code("363680008", "SCT", "Radiographic imaging procedure")
_PROBABILITY = codes.DCM.Probability
_COMMENT = codes.DCM.Comment
_NUMBER = codes.UCUM.NoUnits
_SPREAD = CodedConcept("SPREAD", SCHEME, "Standard deviation over dropout passes")
_THRESHOLDS = {
    "youden": CodedConcept("YOUDEN", SCHEME, "Threshold of largest sensitivity plus specificity"),
    "rule_out": CodedConcept("RULE_OUT", SCHEME, "Highest threshold with sensitivity of at least 0.90"),
    "rule_in": CodedConcept("RULE_IN", SCHEME, "Lowest threshold with specificity of at least 0.90"),
}
_CALL = CodedConcept("CALL", SCHEME, "Call at the operating points")
_CALLS = {
    "ruled in": CodedConcept("RULED_IN", SCHEME, "Ruled in at the operating point"),
    "possible": CodedConcept("POSSIBLE", SCHEME, "Possible: between the operating points"),
    "ruled out": CodedConcept("RULED_OUT", SCHEME, "Ruled out at the operating point"),
    None: CodedConcept("NO_CALL", SCHEME, "No call"),
}
_DECIMALS = 4


def structured_report(films: Sequence[SourceFilm], reading: Reading) -> Dataset:
    """Return the report on a study: a probability, the thresholds and the call of each finding that was predicted.

    Args:
        films: the study's, at least one; the report names them as its source.
        reading: with predictions.
    """
    said = [prediction for prediction in reading.predictions if prediction.probability is not None]
    inputs = [uids_of(films), list(reading.fingerprints), VERSION, [_summary(prediction) for prediction in said]]
    uid = uid_of("sr", *inputs)
    report = MeasurementReport(
        observation_context=ObservationContext(observer_device_context=device(reading.fingerprints)),
        procedure_reported=_PROCEDURE,
        imaging_measurements=[_group(prediction, films, reading, uid) for prediction in said],
    )
    report[0].ContentSequence.append(
        TextContentItem(_COMMENT, ". ".join(filter(None, (NOTICE, reading.warning))), RelationshipTypeValues.CONTAINS)
    )
    result = Comprehensive3DSR(
        evidence=[film.reference for film in films],
        content=report[0],
        series_instance_uid=uid_of("sr series", films[0].study_uid, reading.fingerprint),
        series_number=SERIES,
        sop_instance_uid=uid,
        instance_number=1,
        is_complete=True,
        **equipment(reading.fingerprint, "Findings"),
    )
    return completed(result, films[0])


def device(fingerprints: Sequence[str]) -> ObserverContext:
    """Return who observed: these encoders under this version."""
    return ObserverContext(
        observer_type=codes.DCM.Device,
        observer_identifying_attributes=DeviceObserverIdentifyingAttributes(
            uid=uid_of("device", list(fingerprints), VERSION),
            name=OUR_MODEL,
            manufacturer_name=OUR_MANUFACTURER,
            model_name=OUR_MODEL,
            serial_number=fingerprints[0][:64],
        ),
    )


def finding_code(finding: str) -> Code:
    """Return the code of a finding: of SNOMED CT where that has one, else of our own scheme."""
    own = hashlib.sha256(finding.encode("utf-8", "surrogatepass")).hexdigest()[:16].upper()
    return _FINDINGS.get(finding) or Code(own, SCHEME, plain_text(finding))


def _summary(prediction: FindingReading) -> list[object]:
    """What tells two reports on the same films apart, without what another machine rounds otherwise."""
    thresholds = prediction.thresholds
    points = {} if thresholds is None else {name: f"{getattr(thresholds, name):.3f}" for name in _THRESHOLDS}
    return [prediction.finding, prediction.call, f"{prediction.probability:.3f}", points]


def _group(
    prediction: FindingReading, films: Sequence[SourceFilm], reading: Reading, report: str
) -> MeasurementsAndQualitativeEvaluations:
    measured = [Measurement(_PROBABILITY, _rounded(prediction.probability), _NUMBER)]
    if prediction.spread is not None:
        measured.append(Measurement(_SPREAD, _rounded(prediction.spread), _NUMBER))
    if prediction.thresholds is not None:
        measured += [
            Measurement(name, _rounded(getattr(prediction.thresholds, point)), _NUMBER)
            for point, name in _THRESHOLDS.items()
        ]
    group = MeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(
            uid_of("finding", report, prediction.finding), plain_text(prediction.finding)
        ),
        finding_type=finding_code(prediction.finding),
        algorithm_id=AlgorithmIdentification(
            name="Linear probe on embeddings of the films",
            version=VERSION,
            parameters=[f"encoder {fingerprint}" for fingerprint in reading.fingerprints],
            manufacturer=OUR_MANUFACTURER,
        ),
        measurements=measured,
        qualitative_evaluations=[QualitativeEvaluation(_CALL, _CALLS[prediction.call])],
        source_images=[SourceImageForMeasurementGroup(film.reference.SOPClassUID, film.uid) for film in films],
    )
    if words := prediction.meaning or prediction.no_call:
        group[0].ContentSequence.append(TextContentItem(_COMMENT, words, RelationshipTypeValues.CONTAINS))
    return group


def _rounded(value: float | None) -> float:
    return round(float(value or 0.0), _DECIMALS)
