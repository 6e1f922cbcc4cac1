"""What the manifests of exports, indexes, maps and snapshots must say, and of which types, before they are believed."""

from typing import Annotated, Any, NotRequired

from pydantic import ConfigDict, Field, StrictBool, StrictFloat, StrictInt, TypeAdapter, with_config
from typing_extensions import TypedDict

MOST_ROWS = 1 << 31
MOST_DIM = 1 << 14
_OPEN = with_config(ConfigDict(extra="allow", allow_inf_nan=False))
"""Other keys may be there, which a later version wrote."""
_CLOSED = with_config(ConfigDict(extra="forbid", allow_inf_nan=False))

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
FileName = Annotated[str, Field(max_length=128)]
"""Of a file in the same folder; whoever opens it checks the name first."""
Count = Annotated[int, Field(ge=0, le=MOST_ROWS)]
Dim = Annotated[int, Field(ge=1, le=MOST_DIM)]
Text = Annotated[str, Field(max_length=4096)]
Reading = Annotated[StrictInt, Field(ge=1, le=1 << 16)]
Regions = Annotated[str, Field(pattern=r"^([1-9]\d{0,3}:[1-9]\d{0,1}x[1-9]\d{0,1}x[1-9]\d{0,2})?$")]
"""Version and shape of the films' feature maps; "" where none are kept."""
Sequence = Annotated[int, Field(ge=0, lt=1 << 62)]
Share = Annotated[StrictFloat, Field(ge=0, le=1)]


@_CLOSED
class _Interval(TypedDict):
    value: StrictFloat
    low: StrictFloat
    high: StrictFloat


@_CLOSED
class _Agreement(TypedDict):
    queries: Count
    precision: _Interval
    chance: StrictFloat
    above_chance: _Interval
    pixels: _Interval | None
    above_pixels: _Interval | None


@_CLOSED
class _PairShare(TypedDict):
    least: Annotated[StrictFloat, Field(ge=-1.01, le=1)]
    share: _Interval
    pairs: Count


@_CLOSED
class _Pairs(TypedDict):
    steps: Annotated[list[_PairShare], Field(min_length=1, max_length=64)]
    chance: Share


@_OPEN
class _Shard(TypedDict):
    file: FileName
    rows: Count
    sha256: Sha256


@_CLOSED
class _Source(TypedDict):
    model: Text
    revision: Text


@_OPEN
class _Export(TypedDict):
    fingerprint: Sha256
    embedding_dim: Dim
    rows: Count
    shards: list[_Shard]
    image_root: NotRequired[Text | None]
    encoder_trained: NotRequired[StrictBool | None]
    agreement: NotRequired[_Agreement | None]
    reading: NotRequired[Reading]
    regions: NotRequired[Regions]
    source: NotRequired[_Source]


@_OPEN
class _Named(TypedDict):
    name: FileName
    sha256: Sha256


@_CLOSED
class _IndexFiles(TypedDict):
    exact: _Named
    studies: _Named
    approximate: NotRequired[_Named]
    layouts: NotRequired[_Named]
    regions: NotRequired[_Named]


@_CLOSED
class _Effort(TypedDict):
    probes: Annotated[int, Field(ge=1, le=1 << 16)]
    shortlist: Annotated[int, Field(ge=1, le=1 << 16)]


@_OPEN
class _Index(TypedDict):
    kind: Annotated[str, Field(max_length=64)]
    rows: Annotated[int, Field(ge=1, le=MOST_ROWS)]
    embedding_dim: Dim
    fingerprint: Sha256
    recall_at_10: Share
    files: _IndexFiles
    precision: NotRequired[Annotated[str, Field(max_length=64)]]
    effort: NotRequired[_Effort]
    image_root: NotRequired[Text | None]
    encoder_trained: NotRequired[StrictBool | None]
    agreement: NotRequired[_Agreement | None]
    reading: NotRequired[Reading]
    regions: NotRequired[Regions]
    pairs: NotRequired[_Pairs]
    source: NotRequired[_Source]
    applied: NotRequired[Sequence]


class _States(TypedDict):
    exact: Sha256
    studies: Sha256


@_OPEN
class _Map(TypedDict):
    name: FileName
    sha256: Sha256
    rows: Count
    fingerprint: Sha256
    of: _States


@_OPEN
class _Plane(TypedDict):
    mean: Annotated[list[StrictFloat], Field(min_length=1, max_length=MOST_DIM)]
    axes: Annotated[
        list[Annotated[list[StrictFloat], Field(min_length=1, max_length=MOST_DIM)]], Field(min_length=2, max_length=2)
    ]
    shares: Annotated[list[Share], Field(min_length=2, max_length=2)]


@_OPEN
class _Copied(TypedDict):
    sha256: Sha256


@_OPEN
class _Snapshot(TypedDict):
    files: Annotated[dict[FileName, _Copied], Field(max_length=64)]


@_CLOSED
class _Failure(TypedDict):
    study_id: str
    reason: str


@_OPEN
class _ShardMetadata(TypedDict):
    fingerprint: Sha256
    embedding_dim: Dim
    failures: list[_Failure]


EXPORT_SHAPE: TypeAdapter[Any] = TypeAdapter(_Export)
INDEX_SHAPE: TypeAdapter[Any] = TypeAdapter(_Index)
MAP_SHAPE: TypeAdapter[Any] = TypeAdapter(_Map)
PLANE_SHAPE: TypeAdapter[Any] = TypeAdapter(_Plane)
SNAPSHOT_SHAPE: TypeAdapter[Any] = TypeAdapter(_Snapshot)
SHARD_SHAPE: TypeAdapter[Any] = TypeAdapter(_ShardMetadata)
SPLIT_SHAPE: TypeAdapter[Any] = TypeAdapter(dict[str, list[str]])
"""Of a split: the study ids of each part."""
