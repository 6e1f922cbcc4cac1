"""`precedent encoder`: create an encoder file, adopt a published one, halve it, or say what is in one.

precedent encoder create --backbone efficientnet_b0 --dim 512 --weights none --out encoder.safetensors
"""

import dataclasses
import json
import logging
from contextlib import suppress
from pathlib import Path
from typing import Any, get_args

import click
import numpy as np
import torch
from rich.table import Table

from encoder.embedder import Embedder
from encoder.films.preprocess import MAX_SIZE, Contrast, Fit, Preprocessing
from encoder.network.adopt import adopt, family_of, family_of_network
from encoder.network.backbone import input_statistics, load_backbone_weights, size_option
from encoder.network.checkpoint import as_source, fingerprint_of, load_encoder, save_encoder
from encoder.network.config import EncoderConfig
from encoder.network.families import FAMILIES
from encoder.network.model import DualEfficientNetEncoder, StudyEncoder, count_parameters
from encoder.network.single import require_side
from index.export.reliability import UNTRAINED
from index.table.studies import load_studies
from scripts.options.body_parts import ignored_parts
from scripts.options.encoder_file import EncoderFile
from scripts.options.places import Anywhere, images_option
from scripts.terminal import progress_bar, say, say_json, show

_AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print what was made as JSON.")


@click.group()
def command() -> None:
    """Create and inspect encoder files."""


@command.command()
@click.option("--backbone", default="efficientnet_b0", show_default=True, help="Name of any timm network.")
@click.option(
    "--dim", type=click.Choice(["256", "384", "512"]), default="512", show_default=True, help="Length of a vector."
)
@click.option(
    "--weights",
    default="imagenet",
    show_default=True,
    help="Weights of the backbone: imagenet, none (random), or a safetensors file.",
)
@click.option("--shared/--separate", default=False, help="One backbone for both views, or one for each (default).")
@click.option(
    "--dropout", type=float, default=0.2, show_default=True, help="Dropout of the layers behind the backbones."
)
@click.option("--size", type=int, default=224, show_default=True, help="Side of the network's input in pixels.")
@click.option(
    "--fit", type=click.Choice(get_args(Fit)), default="crop", show_default=True, help="How a film becomes a square."
)
@click.option(
    "--contrast",
    type=click.Choice(["none", "clahe", "equalize"]),
    default="none",
    show_default=True,
    help="Contrast enhancement of a film.",
)
@click.option(
    "--normalization",
    type=click.Choice(["timm", "half"]),
    default="timm",
    show_default=True,
    help="timm: mean and std of the backbone's own configuration; half: [-1, 1].",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the random weights.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Encoder file to write.")
@_AS_JSON
def create(
    backbone: str,
    dim: str,
    weights: str,
    shared: bool,
    dropout: float,
    size: int,
    fit: Fit,
    contrast: Contrast,
    normalization: str,
    seed: int,
    out: Path,
    as_json: bool,
) -> None:
    """Write a new encoder. All layers after the backbone start from random weights, so train it before use.

    \b
    precedent encoder create --weights none --out encoder.safetensors
    """
    torch.manual_seed(seed)
    config = EncoderConfig(
        backbone=backbone,
        embedding_dim=int(dim),
        use_shared_weights=shared,
        dropout=dropout,
        options=size_option(backbone, size),
    )
    require_side(config, size)
    encoder = DualEfficientNetEncoder(config)
    for branch in encoder.backbones:
        load_backbone_weights(branch, backbone, weights)
    mean, std = input_statistics(backbone) if normalization == "timm" else ((0.5,) * 3, (0.5,) * 3)
    preprocessing = Preprocessing(size=size, fit=fit, contrast=contrast, mean=mean, std=std)
    save_encoder(out, encoder, preprocessing)
    if as_json:
        say_json({"out": str(out), **_facts(encoder, preprocessing)})
        return
    say(
        f"{out}: {backbone}, {dim}-D, {'shared' if shared else 'separate'} weights, "
        f"{count_parameters(encoder):,} parameters, fingerprint {fingerprint_of(encoder, preprocessing)[:12]}"
    )
    say(UNTRAINED)


@command.command("adopt")
@click.argument("path", metavar="FILE", type=click.Path(path_type=Path), required=False)
@click.option("--family", help="The published encoder that FILE holds; --list names them.")
@click.option("--network", help="Instead of a family: the name of any timm network.")
@click.option("--size", type=click.IntRange(16, MAX_SIZE), help="Side of the network's input (default: its own).")
@click.option("--fit", type=click.Choice(get_args(Fit)), help="How a film becomes a square (default: the family's).")
@click.option("--margin", type=click.IntRange(0), help="Pixels cut from each side of a centred square of that fit.")
@click.option("--mean", type=float, help="Mean of a film's brightness in [0, 1], with --std (default: the family's).")
@click.option("--std", type=float, help="Its standard deviation.")
@click.option("--prefix", help="Prefix of the network's tensors, if FILE holds several networks.")
@click.option(
    "--projection/--no-projection",
    default=True,
    help="Take vectors after the projection into the space shared with texts, or before it.",
)
@click.option("--list", "listed", is_flag=True, help="Print the families and what their licences say.")
@click.option("--out", type=click.Path(path_type=Path), help="Encoder file to write.")
@_AS_JSON
def adopt_(
    path: Path | None,
    family: str | None,
    network: str | None,
    size: int | None,
    fit: Fit | None,
    margin: int | None,
    mean: float | None,
    std: float | None,
    prefix: str | None,
    projection: bool,
    listed: bool,
    out: Path | None,
    as_json: bool,
) -> None:
    """Make an encoder from the published weights in FILE, which stay as they are; nothing is downloaded.

    \b
    precedent encoder adopt model.safetensors --family rad-dino --out encoder.safetensors
    """
    if listed:
        _list_families(as_json)
        return
    if path is None or out is None or (family is None) == (network is None):
        raise click.UsageError("expected FILE, --out and either --family or --network; --list names the families")
    if (mean is None) != (std is None):
        raise click.UsageError("expected --mean and --std together, got one of them")
    chosen = family_of(family) if family is not None else family_of_network(str(network))
    changes: dict[str, Any] = {"size": size, "fit": fit, "margin": margin}
    if mean is not None and std is not None:
        changes |= {"mean": (mean,) * len(chosen.mean), "std": (std,) * len(chosen.std)}
    chosen = dataclasses.replace(chosen, **{key: value for key, value in changes.items() if value is not None})
    adopted = adopt(path, chosen, network=network, prefix=prefix, projected=projection)
    encoder, preprocessing = adopted.encoder, adopted.preprocessing
    save_encoder(out, encoder, preprocessing)
    if as_json:
        say_json({"out": str(out), "used": adopted.used, "left": adopted.left, **_facts(encoder, preprocessing)})
        return
    say(
        f"{out}: {encoder.config.backbone}, {encoder.embedding_dim}-D, {preprocessing.size} x {preprocessing.size}, "
        f"{count_parameters(encoder):,} parameters, fingerprint {fingerprint_of(encoder, preprocessing)[:12]}",
        f"all {adopted.used} tensors of the network are from {path}; {adopted.left} others are of other parts",
        f"licence of the weights: {chosen.licence}",
    )


def _list_families(as_json: bool) -> None:
    """Print a line a family: name, networks, input, D, licence."""
    rows: list[dict[str, Any]] = [
        {
            "family": family.name,
            "networks": list(family.networks.values()),
            "input": f"{family.size} {family.fit}",
            "dim": family.dims,
            "licence": family.licence,
        }
        for family in FAMILIES.values()
    ]
    if as_json:
        say_json(rows)
        return
    table = Table("family", "network", "input", "D", "licence", box=None, pad_edge=False)
    for row in rows:
        table.add_row(row["family"], ", ".join(row["networks"]), row["input"], row["dim"], row["licence"])
    show(table)


@command.command()
@click.argument("path", type=EncoderFile())
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Encoder file to write.")
@click.option(
    "--source",
    "sources",
    multiple=True,
    metavar="NAME=TEXT",
    help="Text that the file keeps for people to read, such as whose films it learnt from. Repeatable.",
)
@_AS_JSON
def pack(path: Path, out: Path, sources: tuple[str, ...], as_json: bool) -> None:
    """Store an encoder's weights in half precision, which halves its file. The result has a fingerprint of its own.

    \b
    precedent encoder pack runs/first/encoder.safetensors --out encoder.safetensors
    precedent encoder pack runs/first/encoder.safetensors --out encoder.safetensors --source 'films=Our hospital, 2024'
    """
    encoder, preprocessing = load_encoder(path)
    if sources:
        named = dict(source.partition("=")[::2] for source in sources)
        try:
            encoder.source = as_source({**(encoder.source or {}), **named})
        except ValueError as fault:
            raise click.UsageError(f"--source: {fault}") from fault
    save_encoder(out, encoder, preprocessing, dtype=torch.float16)
    packed = fingerprint_of(*load_encoder(out))
    size = out.stat().st_size
    if as_json:
        say_json({"out": str(out), "bytes": size, "fingerprint": packed})
    else:
        say(f"{out}: {size / 1e6:.1f} MB, fingerprint {packed[:12]}")


@command.command("quantize")
@click.argument("path", type=EncoderFile())
@click.option("--studies", type=Anywhere(), required=True, help="Table of studies to calibrate on.")
@images_option
@ignored_parts
@click.option(
    "--count",
    type=click.IntRange(16),
    default=300,
    show_default=True,
    help="Studies to calibrate on, spread evenly over the table.",
)
@_AS_JSON
def quantize_(path: Path, studies: Path, images: Path, ignored: frozenset[str], count: int, as_json: bool) -> None:
    """Make int8 models of an encoder's backbones, for --runtime openvino-int8, and keep them beside its file.

    \b
    precedent encoder quantize encoder.safetensors --studies studies.parquet --images .
    """
    from encoder.runtime.int8 import quantize

    with suppress(ImportError):  # quantize says what to install
        import nncf

        nncf.set_log_level(logging.WARNING)  # else it names every layer that it leaves as it is
    table, embedder = load_studies(studies), Embedder.load(path, ignored_parts=ignored)
    rows = np.unique(np.linspace(0, table.num_rows - 1, min(count, table.num_rows)).round().astype(int)).tolist()
    paths = table.select(["frontal_path", "lateral_path"]).take(rows).to_pylist()
    films = []
    with progress_bar("studies") as bar:
        for row in bar.track(paths, description="read films"):
            frontal, lateral = (row[key] and images / row[key] for key in ("frontal_path", "lateral_path"))
            films.append(embedder.read_films(frontal, lateral))
    models = quantize(
        embedder.encoder,
        films,
        preprocessing=embedder.preprocessing,
        fingerprint=embedder.fingerprint,
        cache=path.resolve().parent / "runtime",
    )
    if as_json:
        say_json({"studies": len(films), "models": [{**vars(made), "path": str(made.path)} for made in models]})
        return
    for made in models:
        say(
            f"{made.path}: {made.layers} of {made.of} convolutions in 8 bits, mean cosine {made.cosine:.4f} to fp32 "
            f"on films that did not calibrate; {len(films)} studies read"
        )


@command.command()
@click.argument("path", type=EncoderFile())
@click.option(
    "--json", is_flag=True, expose_value=False, help="Accepted as by every verb; the output is JSON in any case."
)
def info(path: Path) -> None:
    """Print configuration, preprocessing and fingerprint of an encoder file as JSON.

    \b
    precedent encoder info encoder.safetensors
    """
    say_json(_facts(*load_encoder(path)), indent=2)


def _facts(encoder: StudyEncoder, preprocessing: Preprocessing) -> dict[str, Any]:
    return {
        "fingerprint": fingerprint_of(encoder, preprocessing),
        "parameters": count_parameters(encoder),
        "trained": encoder.trained,
        "source": encoder.source,
        "config": dataclasses.asdict(encoder.config),
        "preprocessing": json.loads(preprocessing.to_json()),
    }
