"""`precedent predict`: what a probe says of a film, and beside it what the nearest studies say.

precedent predict index/ --encoder encoder.safetensors --probe probe/ --frontal film.dcm
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import click
import numpy as np
import numpy.typing as npt

from encoder.embedder import Embedder
from encoder.errors import EncoderError
from encoder.films.image import READING
from encoder.films.layout import study_layouts
from encoder.films.variants import PLAIN, TEST_TIME, VARIANTS
from encoder.findings.predict import MAX_PASSES, Options, Prediction, Predictor
from encoder.findings.probe import LinearProbe
from encoder.maps.explain import Explainer, OpenStudy
from index.export.reliability import warning_of
from index.importing.pairing import require_one_patient
from index.living.additions import Writable
from index.opening import Address
from index.search.contrast import Subject, contrast
from index.search.familiarity import NO_CALL, Layout
from index.search.searchable import Searchable
from index.search.votes import votes_on
from index.table.labels import Labelling
from scripts.options.body_parts import ignored_parts
from scripts.options.labelled_exports import Wanted, label_options
from scripts.options.paths import CollectionAddress, opened
from scripts.options.places import Anywhere, Here
from scripts.reports.familiarity import notices_of
from scripts.reports.prediction import Report, Surroundings, as_object, print_report
from scripts.terminal import say_json, say_warning
from scripts.work.stored_films import save_maps

_PATH = Here()


@dataclass(frozen=True)
class Neighbours:
    """What a collection is asked about a query."""

    collection: Writable
    retriever: Searchable
    k: int
    labelling: Labelling
    labels: str
    """How the labels of the neighbours count, in words."""
    subject: Subject
    contrasted: str | None

    @classmethod
    def load(
        cls, index: Address, k: int, labelling: Labelling, labels: str, subject: Subject, contrasted: str | None
    ) -> Self:
        """Return what is to be asked of the collection at an address. Raises ArtefactError."""
        collection = opened(index)
        return cls(collection, collection.now(), k, labelling, labels, subject, contrasted)

    def surroundings(
        self, query: npt.NDArray[np.float32], layouts: Sequence[Layout], findings: Sequence[str]
    ) -> Surroundings:
        """Return what the collection says of a query (D,) and its films' layouts, with a vote on each finding."""
        answer = self.retriever.search(query, self.k, exclude_patient=self.subject.patient_id)
        gate = self.collection.gate()
        return Surroundings(
            votes=votes_on(answer.hits, self.retriever.schema, findings, self.labelling),
            labels=self.labels,
            familiarity=gate.judge(
                answer.hits[0].similarity if answer.hits else None, layouts, patient=self.subject.patient_id
            ),
            contrast=contrast(self.retriever, query, self.contrasted, self.subject) if self.contrasted else None,
        )


@click.command()
@click.argument("index", type=CollectionAddress(), required=False)
@click.option("--encoder", "encoders", type=_PATH, multiple=True, required=True, help="Encoder file; several vote.")
@click.option(
    "--probe", "probes", type=_PATH, multiple=True, required=True, help="Folder of its probe; one an encoder."
)
@click.option("--frontal", type=Anywhere(), help="A frontal film.")
@click.option("--lateral", type=Anywhere(), help="A lateral film.")
@click.option("--projection", type=click.Choice(["AP", "PA"]), help="Of the frontal film, where it is known.")
@ignored_parts
@click.option("--tta", is_flag=True, help=f"Average five looks at the film: {', '.join(TEST_TIME)}.")
@click.option("--variant", "variants", type=click.Choice(list(VARIANTS)), multiple=True, help="Add one such look.")
@click.option("--mc-dropout", "passes", type=click.IntRange(2, MAX_PASSES), help="Dropout passes: mean and spread.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the dropout.")
@click.option("-k", type=click.IntRange(1), default=20, show_default=True, help="Neighbours that vote.")
@click.option("--patient", help="Patient of the film, whose own studies are left out.")
@click.option("--contrast", "contrasted", metavar="FINDING", help="Also the nearest study with it and without it.")
@click.option("--sex", help="Of the patient, for the contrast, as the index writes it.")
@click.option("--age", type=float, help="Of the patient in years, for the contrast.")
@click.option("--maps", type=click.Path(path_type=Path, file_okay=False), help="Folder for maps of the first finding.")
@label_options(of_the_probe=True)
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def command(
    index: Address | None, encoders: tuple[Path, ...], probes: tuple[Path, ...], frontal: Path | None,
    lateral: Path | None, projection: str | None, ignored: frozenset[str], tta: bool, variants: tuple[str, ...],
    passes: int | None, seed: int, k: int, patient: str | None, contrasted: str | None, sex: str | None,
    age: float | None, maps: Path | None, findings: str | None, classes: tuple[str, ...], policy: str | None,
    blank: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Say how probable each finding of a film is, and what the studies nearest to it say.

    Neighbours' vote and familiarity are of INDEX, an index of the first encoder.
    --findings chooses the rows. The neighbours' labels count as they did when the probe was learnt, unless --class,
    --policy or --blank say otherwise.

    \b
    precedent predict index/ --encoder encoder.safetensors --probe probe/ --frontal film.dcm --tta
    """
    if len(encoders) != len(probes):
        raise click.UsageError(f"give one --probe for each --encoder, got {len(probes)} for {len(encoders)}")
    views = tuple(name for name, path in (("frontal", frontal), ("lateral", lateral)) if path is not None)
    if not views or (contrasted and not index):
        raise click.UsageError("--contrast needs INDEX" if views else "give --frontal and/or --lateral")
    require_one_patient(frontal, lateral)
    looks = tuple(dict.fromkeys((TEST_TIME if tta else (PLAIN,)) + variants))
    options, wanted = Options(looks, passes or 0, seed), Wanted.parse(findings, classes, policy, blank)
    pairs = zip(encoders, probes, strict=True)
    predictor = Predictor([
        (Embedder.load(encoder, ignored_parts=ignored), LinearProbe.load(probe)) for encoder, probe in pairs
    ])  # fmt: skip
    films = predictor.read_films(frontal, lateral, projection=projection)
    predictions = _chosen(predictor.predict(films, options), wanted.findings)
    around, manifest, gate = None, None, None
    layouts, given = study_layouts(films[0]), {"frontal": frontal, "lateral": lateral}
    if index:
        subject = Subject(patient_id=patient, views=views, projection=projection, sex=sex, age=age)
        embedder, probe = predictor.members[0]
        stated = bool(classes or policy or blank)
        told = (wanted.labelling, wanted.sentence()) if stated else Labelling.of_probe(probe.labels)
        neighbours = Neighbours.load(index, k, *told, subject, contrasted)
        neighbours.retriever.require_fingerprint(embedder.fingerprint)
        names = [one.finding for one in predictions]
        around = neighbours.surroundings(embedder.embed(films[:1])[0], layouts, names)
        manifest, gate = neighbours.retriever.manifest, neighbours.collection.gate()
        if around.familiarity is not None and around.familiarity.unfamiliar:
            predictions = [one.without_call(NO_CALL) for one in predictions]
    pictures = _mapped(predictor, (frontal, lateral, projection), predictions[0].finding, maps) if maps else []
    prints = tuple(embedder.fingerprint for embedder, _ in predictor.members)
    untrained = False in {embedder.trained for embedder, _ in predictor.members}
    warning = warning_of(manifest or {}, not untrained and None, None if manifest is None else READING)
    notices = notices_of(gate, given, layouts, ignored)
    report = Report(prints, options, predictions, around, pictures, notices, warning)
    say_warning(warning, err=True)
    if as_json:
        say_json(as_object(report))
    else:
        print_report(report)


def _mapped(
    predictor: Predictor, films: tuple[Path | None, Path | None, str | None], finding: str, out: Path
) -> list[str]:
    """Write where the films speak for the finding, as the first encoder sees it; return the pictures' names."""
    embedder, probe = predictor.members[0]
    study = OpenStudy.read(embedder, *films)
    why = Explainer(embedder).why_finding(study, probe, finding)
    return [str(out / str(one["file"])) for one in save_maps(out, {"query": study}, {"query": why})]


def _chosen(predictions: Sequence[Prediction], findings: Sequence[str]) -> list[Prediction]:
    """Return the predictions asked for, or all, the most probable first."""
    names = [one.finding for one in predictions]
    unknown = [name for name in findings if name not in names]
    if unknown:
        raise EncoderError(f"expected findings of the probe, got {', '.join(unknown)}; it has: {', '.join(names)}")
    kept = [one for one in predictions if not findings or one.finding in findings]
    return sorted(kept, key=lambda one: (-one.probability, one.finding))
