"""A study opens in the hospital's own viewer, whose address is a template: told on the page and in every answer."""

import pytest
from flask.testing import FlaskClient
from service_world import app_over, build_mounted, build_retriever

from index.table.studies import STUDY_UID, Study
from service.errors import MountError
from service.limits import Limits
from service.loader import from_env
from service.viewer import parse_viewer

OHIF = "https://pacs.example/viewer?StudyInstanceUIDs={StudyInstanceUID}&hangingProtocolId=default"
WEASIS = "weasis://?%24dicom%3Ars+-r+%22studyUID%3D{StudyInstanceUID}%22"
UID = "/1.2.840.113619.2.62"
QUERY = f"patient00001/study1{UID}"


def client_of(template: str, ending: str = UID) -> FlaskClient:
    collection = build_mounted(retriever=build_retriever(ending))
    return app_over(collection, limits=Limits(viewer=parse_viewer(template))).test_client()


@pytest.mark.parametrize("template", [OHIF, WEASIS, "http://[::1]:8042/ohif/{StudyInstanceUID}"])
def test_answers_and_page_lead_to_the_viewer(template: str) -> None:
    client, address = client_of(template), template.replace("{StudyInstanceUID}", UID[1:])
    hits = client.get(f"/v1/studies/{QUERY}/similar").get_json()["hits"]
    page = client.get("/", query_string={"study": QUERY}).text

    assert client.get(f"/v1/studies/{QUERY}").get_json()["viewer_url"] == address
    assert [hit["viewer_url"] for hit in hits] == [address] * len(hits) != []
    link = f'href="{address.replace("&", "&amp;")}" target="_blank" rel="noopener noreferrer"'
    assert page.count(link) == page.count('<li class="hit"') + 1  # the hits, and the query


def test_what_has_no_uid_or_no_viewer_leads_nowhere() -> None:
    for client, study in ((client_of(OHIF, ""), "patient00001/study1"), (client_of(""), QUERY)):
        assert client.get(f"/v1/studies/{study}").get_json()["viewer_url"] is None
        assert "Open in viewer" not in client.get("/", query_string={"study": study}).text


@pytest.mark.parametrize(
    ("study_id", "column", "uid"),
    [
        ("17^^^SITE/1.2.840.10008.1", None, "1.2.840.10008.1"),
        ("17/2.25.329800735698586629295641978511506172918", None, "2.25.329800735698586629295641978511506172918"),
        ("s1", "1.3.12.2.1107", "1.3.12.2.1107"),
        ("17/1.2.840.10008.1", "not said", None),  # the column is what was meant to say it
        ("p10/s50414267", None, None),
        ("p1/2021.03.04", None, None),
        ("p1/1.2.3", 5, "1.2.3"),
        ("p1/1.2." + "3" * 61, None, None),
        ("patient04d1/study9f27", None, None),
    ],
)
def test_a_uid_is_taken_from_its_column_or_the_end_of_the_id(
    study_id: str, column: str | int | None, uid: str | None
) -> None:
    assert Study(study_id, "p", "f.dcm", extra={STUDY_UID: column}).study_uid == uid


@pytest.mark.parametrize(
    "template",
    [
        "javascript:alert('{StudyInstanceUID}')//x",
        "ftp://pacs.example/{StudyInstanceUID}",
        "https://pacs.example/viewer",
        "https://pacs.example/{StudyInstanceUID}/{StudyInstanceUID}",
        "https://pacs.example/{StudyInstanceUID}?patient={PatientID}",
        "https://{StudyInstanceUID}.example/",
        "https://reader:secret@pacs.example/{StudyInstanceUID}",
        'https://pacs.example/"onclick="{StudyInstanceUID}',
        "https://pacs.example/\n{StudyInstanceUID}",
        "https://pacs.example/" + "a" * 2000 + "{StudyInstanceUID}",
    ],
)
def test_a_template_that_is_no_plain_address_is_refused(template: str) -> None:
    with pytest.raises(MountError, match="of a viewer") as refused:
        parse_viewer(template)
    assert "secret" not in str(refused.value)
    with pytest.raises(MountError, match="of a viewer"):
        from_env({"PRECEDENT_INDEX": "i", "PRECEDENT_ENCODER": "e", "PRECEDENT_VIEWER_URL": template})
