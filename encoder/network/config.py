"""The options that a checkpoint needs to rebuild its network, and their ranges."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from encoder.errors import EncoderError
from encoder.films.preprocess import MAX_SIZE

ARCHITECTURES = ("dual", "single")
POOLINGS = ("avg", "avgmax", "own")
EMBEDDING_DIMS = (256, 384, 512)

MOST_WIDE = 1 << 14
"""Of a layer above a backbone."""
MOST_LAYERS = 16

Option = str | int | bool | tuple[int, ...]


def _number(least: int, most: int) -> Callable[[object], bool]:
    return lambda value: type(value) is int and least <= value <= most


def _one_of(*known: object) -> Callable[[object], bool]:
    return lambda value: any(type(value) is type(choice) and value == choice for choice in known)


def _two_numbers(value: object) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and all(map(_number(1, 256), value))


_NETWORK_OPTIONS: Mapping[str, tuple[str, Callable[[object], bool]]] = {
    "img_size": (f"16 to {MAX_SIZE}", _number(16, MAX_SIZE)),
    "patch_size": ("4 to 64", _number(4, 64)),
    "ref_feat_shape": ("two numbers of 1 to 256", _two_numbers),
    "act_layer": ("gelu, gelu_tanh or quick_gelu", _one_of("gelu", "gelu_tanh", "quick_gelu")),
    "num_classes": (f"0 to {MOST_WIDE}", _number(0, MOST_WIDE)),
    "fc_norm": ("true or false", _one_of(True, False)),
    "global_pool": ("avg, map, max or token", _one_of("avg", "map", "max", "token")),
}
"""What a network can be told beside its name, as `timm.create_model` has it: what it may be, and the check of that."""


@dataclass(frozen=True)
class EncoderConfig:
    """One network's shape; every default is the first seed design's own."""

    architecture: str = "dual"
    """dual: a branch a view and a fusion of both; single: one backbone for every film, a study is the mean of its
    views."""
    backbone: str = "efficientnet_b0"
    """A timm network; EfficientNet-B0 has the best accuracy for its 4 M parameters."""
    embedding_dim: int = 512
    """D of the fused vector: 256, 384 or 512. A single encoder is as wide as its last layer, and has 0 here."""
    use_shared_weights: bool = False
    """One backbone for both views; separate ones may specialise, a shared one runs half as often on a single film."""
    dropout: float = 0.2
    """p after each hidden layer, p / 2 after each extractor; in a single encoder p on the pooled film; 0.0 to 0.5."""
    in_chans: int = 3
    """Channels of a film as the backbone wants it; 1 for networks trained on grey films."""
    pooling: str = "avg"
    """How a backbone's last map becomes one vector: avg, its mean over all places; avgmax, the mean of that and its
    greatest value, by which a small finding counts for more and a map of it is sharper; own, what the network itself
    does: its class token, its attention, its mean and a norm."""
    projection: int = 0
    """Single only: channels that a 1 x 1 convolution takes the last stage to before it is pooled; 0 has none."""
    dense: tuple[int, ...] = ()
    """Single only: widths of the layers (linear, ReLU, dropout) above the pooled film; the last one is D."""
    dense_dropout: tuple[float, ...] = ()
    """Single only: p after each of `dense`."""
    position_input: bool = False
    """Single only: the layers above also get the film's view position (AP, PA, lateral; all zero where unknown)."""
    options: tuple[tuple[str, Option], ...] = ()
    """Pairs of what timm is told beside the network's name, such as ("img_size", 518); keys of `_NETWORK_OPTIONS`."""

    def __post_init__(self) -> None:
        self._check_types()
        if self.architecture not in ARCHITECTURES:
            raise EncoderError(f"expected architecture dual or single, got {self.architecture!r}")
        if self.pooling not in POOLINGS:
            raise EncoderError(f"expected pooling {', '.join(POOLINGS)}, got {self.pooling!r}")
        for p in (self.dropout, *self.dense_dropout):
            if not 0.0 <= p <= 0.5:
                raise EncoderError(f"expected dropout in [0.0, 0.5], got {p}")
        if self.architecture == "dual":
            self._check_dual()
        else:
            self._check_single()

    def _check_types(self) -> None:
        """Refuse values of a wrong type or size, which an untrusted file may hold, before anything is built of them."""
        for key in ("dense", "dense_dropout"):  # JSON knows no tuples
            _require(isinstance(getattr(self, key), (tuple, list)), f"a list of numbers as {key}", getattr(self, key))
            object.__setattr__(self, key, tuple(getattr(self, key)))
        for key in ("architecture", "backbone", "pooling"):
            _require(type(getattr(self, key)) is str, f"a word as {key}", getattr(self, key))
        for key in ("use_shared_weights", "position_input"):
            _require(type(getattr(self, key)) is bool, f"true or false as {key}", getattr(self, key))
        for key, value in (("embedding_dim", self.embedding_dim), ("projection", self.projection)):
            _require(type(value) is int and 0 <= value <= MOST_WIDE, f"{key} of 0 to {MOST_WIDE}", value)
        _require(type(self.in_chans) is int and self.in_chans in (1, 3), "in_chans of 1 or 3", self.in_chans)
        _require(len(self.dense) <= MOST_LAYERS, f"at most {MOST_LAYERS} layers in dense", len(self.dense))
        for width in self.dense:
            _require(type(width) is int and width <= MOST_WIDE, f"widths up to {MOST_WIDE} in dense", width)
        for p in (self.dropout, *self.dense_dropout):
            _require(type(p) in (int, float), "numbers as dropout", p)
        object.__setattr__(self, "options", _as_options(self.options))

    def _check_dual(self) -> None:
        if self.embedding_dim not in EMBEDDING_DIMS:
            raise EncoderError(f"expected embedding_dim 256, 384 or 512, got {self.embedding_dim}")
        if self.projection or self.dense or self.position_input:
            raise EncoderError(
                "expected projection, dense and position_input with architecture single only, got dual; drop them"
            )

    def _check_single(self) -> None:
        if self.embedding_dim:
            raise EncoderError(
                f"expected embedding_dim 0 with architecture single, got {self.embedding_dim}; "
                "the last of `dense` sets the width"
            )
        if len(self.dense) != len(self.dense_dropout):
            raise EncoderError(
                f"expected a dense_dropout for each of dense, got {len(self.dense_dropout)} for {len(self.dense)}"
            )
        if any(width < 1 for width in (*self.dense, self.projection or 1)):
            raise EncoderError(f"expected widths above 0, got dense {self.dense}, projection {self.projection}")
        if self.projection and self.pooling == "own":
            raise EncoderError(
                "expected pooling avg or avgmax with a projection, got 'own'; a network pools its own map"
            )


def _require(holds: bool, wanted: str, got: object) -> None:
    if not holds:
        raise EncoderError(f"expected {wanted}, got {str(got)[:80]!r}")


def _as_options(pairs: object) -> tuple[tuple[str, Option], ...]:
    """Return pairs of options, sorted by key; JSON and TOML know lists where these are tuples."""
    _require(isinstance(pairs, (tuple, list)), "a list of pairs as options", pairs)
    options: dict[str, Option] = {}
    for pair in pairs if isinstance(pairs, (tuple, list)) else ():
        _require(isinstance(pair, (tuple, list)) and len(pair) == 2, "pairs as options", pair)
        key, value = pair
        known = type(key) is str and key in _NETWORK_OPTIONS and key not in options
        _require(known, f"options, each once, of {', '.join(_NETWORK_OPTIONS)}", key)
        value = tuple(value) if isinstance(value, list) else value
        wanted, holds = _NETWORK_OPTIONS[key]
        _require(holds(value), f"{key} of {wanted}", value)
        options[key] = value
    return tuple(sorted(options.items()))
