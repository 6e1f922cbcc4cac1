"""Where indexes and an encoder meet, and the only place of the service that reads the environment.

Whatever is wrong with them together is refused here, before the first request.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from flask_openapi3 import OpenAPI

from encoder.network.builtin import encoder_path
from index.built.gpu import DEVICES
from service.app import create_app
from service.audit.log import AuditLog
from service.errors import MountError
from service.guard.policy import RemotePolicy
from service.guard.tokens import TokenFile
from service.gunicorn import loaded_by_worker
from service.limits import Limits
from service.prefix import parse_prefix
from service.process import disable_telemetry, keep_files_private
from service.served.decoding import Decoding
from service.served.mounts import Mount, parse_mounts
from service.served.readiness import Readiness
from service.served.remote import Address
from service.served.sites import Sites, SitesFile
from service.served.sources import Sources
from service.state import State
from service.viewer import parse_viewer
from service.watch.metrics import Metrics


def load(
    mounts: Sequence[Mount],
    encoder_path: Path | None,
    limits: Limits | None = None,
    probe_dir: Path | None = None,
    runtime: str = "torch",
    ignored_parts: Iterable[str] = (),
    *,
    tokens: TokenFile | None = None,
    log: AuditLog | None = None,
    device: str = "cpu",
    embedder: str | None = None,
    embedder_kind: str = "own",
    texts: Path | None = None,
    policy: RemotePolicy | None = None,
    sites: SitesFile | None = None,
) -> OpenAPI:
    """Return the application over index folders and the one encoder that made their vectors.

    Args:
        mounts: the first is asked where a request names none; at least one, unless there are sites and an encoder.
        encoder_path: None has stored studies and vectors answered, and films refused.
        probe_dir: the probe that predictions come from; None leaves them to the neighbours.
        runtime: what runs the encoder, of `encoder.runtime.runtimes.RUNTIMES`.
        ignored_parts: what a DICOM header may state of the body part as if it stated none.
        tokens: of which one is asked for, also on a loopback address; None asks for none.
        log: where every call is written down.
        device: what the vectors of folders are searched on, of `index.built.gpu.DEVICES`.
        texts: a file of texts with vectors of the same encoder, to search by.
        policy: what other hospitals are told that search here; None answers none.
        sites: other hospitals, which are searched beside the first collection.
        embedder: the address of a remote one in the place of an encoder, and of which `service.served.remote.SHAPES`.

    Raises:
        NoGpu: a GPU is asked for and cannot be had.
        FingerprintMismatch: an index was built with another encoder.
        ArtefactError, CheckpointError: a file that is missing, truncated or changed.
        MountError, EmbedderUnavailable: an address that is none, or where nothing answers as it should.
    """
    remote = None
    if policy is not None and tokens is None:
        raise MountError(
            "other hospitals are told apart by their tokens; make one: precedent token create NAME --scope remote "
            "--tokens FILE, and give --tokens FILE here"
        )
    if encoder_path is not None and embedder is not None:
        raise MountError("expected an encoder's file or a remote embedder, got both; leave one of them out")
    if embedder is not None:
        remote = Address.parse(embedder, embedder_kind, os.environ.get("PRECEDENT_EMBEDDER_TOKEN", ""))
    limits = limits or Limits()
    metrics = Metrics()
    token = os.environ.get("MILVUS_TOKEN", "")
    films = Decoding(limits, ignored_parts)
    sources = Sources(
        mounts,
        encoder_path,
        probe_dir,
        runtime,
        limits.studies,
        metrics,
        films,
        token,
        device,
        remote,
        texts,
        Sites(sites) if sites is not None else None,
    )
    served = sources.open()
    readiness = Readiness(metrics.ready)
    readiness.check(served)  # what later checks compare with
    return create_app(
        State.of(
            served,
            limits,
            tokens=tokens,
            log=log,
            metrics=metrics,
            decoding=films,
            readiness=readiness,
            load=sources.open,
            remote=policy,
        )
    )


def from_env(environ: Mapping[str, str] = os.environ) -> OpenAPI:
    """Return the application that PRECEDENT_INDEX, _ENCODER, _IMAGES, _PROBE, _HOSTS, _TOKENS and _AUDIT describe.

    _INDEX (`index/` or `main=index/,nih=nih-index/`), _IMAGES (`films/` or `nih=nih-films/`) and _HOSTS hold as many
    words as are needed, between commas. For a server that takes a factory: `gunicorn 'service.loader:from_env()'`.
    PRECEDENT_TRUST_COLLECTION=yes takes the image roots that indexes name, though they were made elsewhere.
    _ENCODER=none serves without an encoder: stored studies and vectors are answered, and films are refused unless
    _EMBEDDER is the address of a remote one, of the kind _EMBEDDER_KIND, which is asked with _EMBEDDER_TOKEN.
    _TEXTS are texts to search by. _REMOTE_POLICY says what other hospitals are told, _SITES which of them are searched.
    Without _TOKENS it answers its own machine alone. One process can write _AUDIT: one worker, with threads.
    _DEVICE (auto, cpu or gpu) is what compares vectors; auto is a GPU that FAISS sees and they fit on.
    Films of the body parts that _IGNORE_BODY_PARTS names, between commas, are taken for chest films.
    A proxy shows the service below _PREFIX, a path such as /precedent. _VIEWER_URL is what --viewer-url is.
    What it writes is its owner's alone; _UMASK, such as 027, has a group read it.

    Raises:
        MountError: PRECEDENT_INDEX or PRECEDENT_ENCODER is not set, or what they name cannot be served so.
        TokensError, AuditError; CollectionError for an _UMASK that is none; and what `load` raises.
    """
    with loaded_by_worker():
        return _from_env(environ)


def _from_env(environ: Mapping[str, str]) -> OpenAPI:
    disable_telemetry()
    keep_files_private(environ)
    for name in ("PRECEDENT_INDEX", "PRECEDENT_ENCODER"):
        if not environ.get(name):
            raise MountError(f"expected {name} in the environment, got none; set it to the path of a folder or file")
    encoder = environ["PRECEDENT_ENCODER"]
    prefix = parse_prefix(environ.get("PRECEDENT_PREFIX", ""))
    tokens, audit = environ.get("PRECEDENT_TOKENS"), environ.get("PRECEDENT_AUDIT")
    if prefix and not tokens:
        raise MountError(
            f"requests below {prefix!r} come through a proxy and would count as coming from this machine; ask for "
            "tokens: precedent token create NAME --scope read --tokens FILE, and PRECEDENT_TOKENS=FILE"
        )
    known = TokenFile(Path(tokens)) if tokens else None
    calls = AuditLog(Path(audit)) if audit else None
    limits = Limits(prefix=prefix, viewer=parse_viewer(environ.get("PRECEDENT_VIEWER_URL", "")))
    if hosts := _words(environ.get("PRECEDENT_HOSTS")):
        limits = replace(limits, hosts=tuple(hosts))
    return load(
        parse_mounts(
            _words(environ["PRECEDENT_INDEX"]),
            _words(environ.get("PRECEDENT_IMAGES")),
            trusted=environ.get("PRECEDENT_TRUST_COLLECTION") == "yes",
        ),
        None if encoder == "none" else encoder_path(encoder),
        limits,
        Path(environ["PRECEDENT_PROBE"]) if environ.get("PRECEDENT_PROBE") else None,
        ignored_parts=_words(environ.get("PRECEDENT_IGNORE_BODY_PARTS")),
        tokens=known,
        log=calls,
        embedder=environ.get("PRECEDENT_EMBEDDER") or None,
        embedder_kind=environ.get("PRECEDENT_EMBEDDER_KIND", "own"),
        texts=Path(environ["PRECEDENT_TEXTS"]) if environ.get("PRECEDENT_TEXTS") else None,
        device=_device(environ.get("PRECEDENT_DEVICE", "auto")),
        sites=SitesFile.load(Path(sites), environ) if (sites := environ.get("PRECEDENT_SITES")) else None,
        policy=RemotePolicy.load(Path(policy)) if (policy := environ.get("PRECEDENT_REMOTE_POLICY")) else None,
    )


def _device(text: str) -> str:
    if text not in DEVICES:
        raise MountError(f"expected PRECEDENT_DEVICE to be one of {', '.join(DEVICES)}, got {text!r}")
    return text


def _words(text: str | None) -> list[str]:
    return [word.strip() for word in (text or "").split(",") if word.strip()]
