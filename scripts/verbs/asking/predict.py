"""`precedent predict`: how probable each finding of a film is, and how many similar studies have it.

precedent predict index/ --encoder encoder.safetensors --probe probe/ --frontal film.dcm
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import click

from encoder.errors import EncoderError
from encoder.films.dicom_elements import read_header
from encoder.films.image import READING
from encoder.films.layout import study_layouts
from encoder.films.variants import PLAIN, TEST_TIME, VARIANTS
from encoder.findings.predict import MAX_PASSES, Options, Prediction, Predictor
from encoder.maps.explain import Explainer, OpenStudy
from index.export.reliability import warning_of
from index.importing.pairing import require_one_patient
from index.opening import Address
from index.search.answer import Query, Subject
from index.search.contrast import contrast
from index.search.reading import Reading, read_findings
from index.table.labels import Labelling
from scripts.options.body_parts import ignored_parts
from scripts.options.collection_address import CollectionAddress, opened
from scripts.options.encoder_file import EncoderFile
from scripts.options.labelled_exports import Wanted, label_options
from scripts.options.places import Anywhere, Here
from scripts.reports.familiarity import notices_of
from scripts.reports.prediction import print_reading
from scripts.terminal import say_json, say_warning
from scripts.work.stored_films import save_maps
from service.api.answers import PredictAnswer

_PATH = Here()


@click.command()
@click.argument("index", type=CollectionAddress(), required=False)
@click.option(
    "--encoder",
    "encoders",
    type=EncoderFile(),
    multiple=True,
    required=True,
    help="Encoder file, or: builtin. Repeat it to average several encoders.",
)
@click.option(
    "--probe",
    "probes",
    type=_PATH,
    multiple=True,
    required=True,
    help="Folder of the encoder's probe; one for each --encoder, in the same order.",
)
@click.option("--frontal", type=Anywhere(), help="A frontal film.")
@click.option("--lateral", type=Anywhere(), help="A lateral film.")
@click.option("--projection", type=click.Choice(["AP", "PA"]), help="Projection of the frontal film, if known.")
@ignored_parts
@click.option(
    "--tta", is_flag=True, help=f"Test-time augmentation: average five versions of the film ({', '.join(TEST_TIME)})."
)
@click.option(
    "--variant",
    "variants",
    type=click.Choice(list(VARIANTS)),
    multiple=True,
    help="Average this version of the film too. Repeatable.",
)
@click.option(
    "--mc-dropout",
    "passes",
    type=click.IntRange(2, MAX_PASSES),
    help="Number of passes with dropout, to report their mean and spread.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the dropout.")
@click.option(
    "-k",
    type=click.IntRange(1),
    default=20,
    show_default=True,
    help="Number of similar studies that the neighbours' vote is taken over.",
)
@click.option("--patient", help="The patient's id, so that earlier studies of the same patient are left out.")
@click.option(
    "--contrast",
    "contrasted",
    metavar="FINDING",
    help="Show the most similar study with this finding, and the one without it.",
)
@click.option("--sex", help="The patient's sex as the index writes it, to match --contrast by.")
@click.option("--age", type=float, help="The patient's age in years, to match --contrast by.")
@click.option(
    "--maps", type=click.Path(path_type=Path, file_okay=False), help="Folder for heat maps of the first finding."
)
@label_options(of_the_probe=True)
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def command(
    index: Address | None,
    encoders: tuple[Path, ...],
    probes: tuple[Path, ...],
    frontal: Path | None,
    lateral: Path | None,
    projection: str | None,
    ignored: frozenset[str],
    tta: bool,
    variants: tuple[str, ...],
    passes: int | None,
    seed: int,
    k: int,
    patient: str | None,
    contrasted: str | None,
    sex: str | None,
    age: float | None,
    maps: Path | None,
    findings: str | None,
    classes: tuple[str, ...],
    policy: str | None,
    blank: str | None,
    as_json: bool,
) -> None:
    """Print how probable each finding is on a film, and how many similar studies have it.

    With INDEX, which must be built with the first encoder, two things are added: the neighbours' vote (the share of
    similar studies that have the finding) and whether the film is unlike all films of the index. --findings chooses the
    rows. Labels of the neighbours count as they did when the probe was trained, unless --class, --policy or --blank
    say otherwise.

    \b
    precedent predict index/ --encoder encoder.safetensors --probe probe/ --frontal film.dcm --tta
    """
    if len(encoders) != len(probes):
        raise click.UsageError(f"give one --probe for each --encoder, got {len(probes)} for {len(encoders)}")
    views = tuple(name for name, path in (("frontal", frontal), ("lateral", lateral)) if path is not None)
    if not views or (contrasted and not index):
        raise click.UsageError("--contrast needs INDEX" if views else "give --frontal and/or --lateral")
    require_one_patient(frontal, lateral, read_header)
    looks = tuple(dict.fromkeys((TEST_TIME if tta else (PLAIN,)) + variants))
    options, wanted = Options(looks, passes or 0, seed), Wanted.parse(findings, classes, policy, blank)
    predictor = Predictor.load(encoders, probes, ignored)
    films = predictor.read_films(frontal, lateral, projection=projection)
    predictions = _chosen(predictor.predict(films, options), wanted.findings)
    embedder, probe = predictor.members[0]
    names, layouts, gate = [prediction.finding for prediction in predictions], study_layouts(films[0]), None
    reading = Reading(
        read_findings(names, predictions),
        predictor.fingerprints,
        options,
        warning=warning_of({}, predictor.trained, None),
    )
    if index:
        collection = opened(index)
        here, gate = collection.now(), collection.gate()
        here.require_fingerprint(embedder.fingerprint)
        stated = bool(classes or policy or blank)
        labelling, labels = (wanted.labelling, wanted.sentence()) if stated else Labelling.of_probe(probe.labels)
        subject = Subject(patient_id=patient, views=views, projection=projection, sex=sex, age=age)
        query = Query(embedder.embed(films[:1])[0], subject, k)
        answer = here.answer(query).judged(gate, query, layouts)
        reading = replace(
            reading,
            predictions=read_findings(names, predictions, answer, here.schema, labelling),
            labels=labels,
            familiarity=answer.familiarity,
            contrast=contrast(here, query, contrasted) if contrasted else None,
            warning=warning_of(here.manifest, predictor.trained, READING),
        )
    given = {"frontal": frontal, "lateral": lateral}
    reading = replace(reading, film_notices=tuple(notices_of(gate, given, layouts, ignored)))
    if maps:
        study = OpenStudy.read(embedder, frontal, lateral, projection)
        why = Explainer(embedder).why_finding(study, probe, reading.predictions[0].finding)
        reading = replace(reading, maps=tuple(save_maps(maps, {"query": study}, {"query": why})))
    say_warning(reading.warning, err=True)
    if as_json:
        say_json(PredictAnswer.of(reading))
    else:
        print_reading(reading)


def _chosen(predictions: Sequence[Prediction], findings: Sequence[str]) -> list[Prediction]:
    """Return the predictions asked for, or all."""
    names = [prediction.finding for prediction in predictions]
    unknown = [name for name in findings if name not in names]
    if unknown:
        raise EncoderError(f"expected findings of the probe, got {', '.join(unknown)}; it has: {', '.join(names)}")
    return [prediction for prediction in predictions if not findings or prediction.finding in findings]
