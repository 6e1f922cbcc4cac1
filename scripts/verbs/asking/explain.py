"""`precedent explain`: maps of why a probe names a finding in a film, or why two studies are alike.

precedent explain --encoder encoder.safetensors --probe probe/ --finding Edema --frontal film.dcm --out maps/
"""

from pathlib import Path
from typing import Any

import click

from encoder.embedder import Embedder
from encoder.films.dicom_elements import read_header
from encoder.films.image import READING
from encoder.films.layout import study_layouts
from encoder.findings.probe import LinearProbe
from encoder.maps.explain import DEFAULT_METHOD, METHODS, Explainer, OpenStudy
from encoder.maps.overlay import COLOURS
from index.export.reliability import warning_of
from index.importing.pairing import require_one_patient
from index.opening import Address
from index.storage.files import save_json
from scripts.options.body_parts import ignored_parts
from scripts.options.collection_address import CollectionAddress, opened, trust_option
from scripts.options.encoder_file import EncoderFile
from scripts.options.places import Anywhere, Here
from scripts.reports.familiarity import notices_of
from scripts.terminal import say, say_json, say_warning
from scripts.work.stored_films import Stored, save_maps
from service.api.answers import ExplainAnswer

_PATH = Here()


@click.command()
@click.argument("index", type=CollectionAddress(), required=False)
@click.option("--encoder", type=EncoderFile(), required=True, help="Encoder file, or: builtin.")
@click.option("--images", type=Anywhere(), help="Image root of the index, if it is not the one stored in it.")
@trust_option
@click.option("--study", help="The query: a stored study, e.g. patient00001/study1.")
@click.option("--frontal", type=Anywhere(), help="The query: a frontal film.")
@click.option("--lateral", type=Anywhere(), help="The query: a lateral film.")
@click.option("--projection", type=click.Choice(["AP", "PA"]), help="Projection of --frontal, if known.")
@ignored_parts
@click.option("--finding", help="Show which parts of the film speak for this finding of --probe.")
@click.option("--probe", type=_PATH, help="Folder of the probe that was trained on this encoder's vectors.")
@click.option("--hit", help="Show what makes the query similar to this stored study.")
@click.option(
    "--method", type=click.Choice(METHODS), default=DEFAULT_METHOD, show_default=True, help="Method of the heat map."
)
@click.option(
    "--stage",
    type=click.IntRange(0),
    help="Stage of the network to use, 0 for half the input's resolution (default: last).",
)
@click.option(
    "--alpha", type=click.FloatRange(0, 1), default=0.4, show_default=True, help="Opacity of the colours over the film."
)
@click.option(
    "--colours", type=click.Choice(list(COLOURS)), default="inferno", show_default=True, help="Colours of the heat map."
)
@click.option("--no-trust", is_flag=True, help="Leave out the deletion and insertion scores.")
@click.option("--out", type=_PATH, required=True, help="Folder for the maps: PNG over the film, NPY, explanation.json.")
@click.option("--json", "as_json", is_flag=True, help="Print explanation.json.")
def command(
    index: Address | None,
    encoder: Path,
    images: Path | None,
    trusted: bool,
    study: str | None,
    frontal: Path | None,
    lateral: Path | None,
    projection: str | None,
    ignored: frozenset[str],
    finding: str | None,
    probe: Path | None,
    hit: str | None,
    method: str,
    stage: int | None,
    alpha: float,
    colours: str,
    no_trust: bool,
    out: Path,
    as_json: bool,
) -> None:
    """Draw heat maps that explain a finding (--finding, --probe) or a similarity (--hit).

    --study and --hit name studies of INDEX, which was built with this encoder.

    \b
    precedent explain index/ --encoder encoder.safetensors --study patient00003/study1 \\
        --hit patient00204/study3 --out maps/
    """
    if (study is not None) == (frontal is not None or lateral is not None):
        raise click.UsageError("give either --study, or --frontal and/or --lateral")
    if (finding is None) == (hit is None) or (finding is not None and probe is None):
        raise click.UsageError("give either --finding with --probe, or --hit")
    if index is None and (study or hit):
        raise click.UsageError("a stored study needs INDEX, the folder that holds it")
    require_one_patient(frontal, lateral, read_header)
    embedder = Embedder.load(encoder, ignored_parts=ignored)
    explainer = Explainer(embedder)
    options: dict[str, Any] = {"method": method, "stage": stage, "trust": not no_trust}
    wanted = {side: name for side, name in (("query", study), ("hit", hit)) if name is not None}
    collection, notices = opened(index) if index else None, list[str]()
    sides = Stored(embedder, collection, images, trusted).open_all(wanted) if collection else {}
    if study is None:
        sides = {"query": OpenStudy.read(embedder, frontal, lateral, projection), **sides}
        layouts = study_layouts(sides["query"].films)
        gate = None if collection is None else collection.gate()
        notices = notices_of(gate, {"frontal": frontal, "lateral": lateral}, layouts, ignored)
    if finding is not None and probe is not None:
        explained = {"query": explainer.why_finding(sides["query"], LinearProbe.load(probe), finding, **options)}
    else:
        explained = dict(zip(sides, explainer.why_similar(sides["query"], sides["hit"], **options), strict=True))
    manifest = {} if collection is None else collection.manifest
    warning = warning_of(manifest, embedder.trained, READING if manifest else None)
    say_warning(warning, err=True)
    answer = ExplainAnswer.of(
        {
            "method": method,
            "stage": stage,
            "finding": finding,
            "hit": hit,
            "value": explained["query"].value,
            "film_notices": notices,
            "maps": save_maps(out, sides, explained, alpha, colours),
            "fingerprint": embedder.fingerprint,
            "warning": warning,
        }
    )
    save_json(out / "explanation.json", answer)
    if as_json:
        say_json(answer)
    else:
        say(*_sentences(answer))


def _sentences(answer: dict[str, Any]) -> list[str]:
    about = f"logit of {answer['finding']}" if answer["finding"] else f"cosine to {answer['hit']}"
    lines = [f"{about}: {answer['value']:.3f}; {answer['method']}"]
    for saved in answer["maps"]:
        lines.append(saved["file"])
        if saved["deletion"] is not None:
            lines.append(
                f"  {'probability' if answer['finding'] else 'cosine'} while the hottest parts are blurred "
                f"{saved['deletion']:.2f} (random map {saved['random_deletion']:.2f}), while only they are sharp "
                f"{saved['insertion']:.2f} (random map {saved['random_insertion']:.2f})"
            )
    return lines + answer["film_notices"]
