"""Which layers of a converted backbone may take 8 bits, and a model in which only those do."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from encoder.films.study import Normalized

_CONVOLUTIONS = ("Convolution", "GroupConvolution")


class MixedModel:
    """A converted backbone, the same one with every layer in 8 bits, and all mixtures between the two."""

    def __init__(self, model: Any, films: Sequence[Normalized]) -> None:
        """Quantise (nncf, after training): symmetric ranges of weights and activations, seen on films (C, S, S).

        Only convolutions over more than one pixel count: those of squeeze-and-excitation save no time and cost much.
        """
        import nncf

        layers = {layer.get_friendly_name(): _weights_of(layer) for layer in model.get_ordered_ops() if _counts(layer)}
        self._weights: Mapping[str, tuple[Any, Any]] = layers
        others = [op.get_friendly_name() for op in model.get_ordered_ops() if _takes_bits(op, layers)]
        self._whole = nncf.quantize(
            model.clone(),
            nncf.Dataset([film[None] for film in films]),
            subset_size=len(films),
            preset=nncf.QuantizationPreset.PERFORMANCE,  # without zero points, which cost a fifth of the time
            ignored_scope=nncf.IgnoredScope(names=others, validate=False),
        )

    @property
    def layers(self) -> list[str]:
        """Return the layers that can take 8 bits, in the order of the network."""
        return list(self._weights)

    def model(self, layers: Sequence[str]) -> Any:
        """Return the model with only these layers in 8 bits; the others have their own weights and inputs again."""
        from openvino import opset13

        mixture = self._whole.clone()
        for layer in mixture.get_ordered_ops():
            name = layer.get_friendly_name()
            if name not in self._weights or name in layers:
                continue
            reader = layer.input(0).get_source_output().get_node()
            if reader.get_type_name() == "FakeQuantize":
                layer.input(0).replace_source_output(reader.input(0).get_source_output())
            weights, bias = self._weights[name]
            layer.input(1).replace_source_output(opset13.constant(weights).output(0))
            if bias is not None:
                _bias_input(layer).replace_source_output(opset13.constant(bias).output(0))
        mixture.validate_nodes_and_infer_types()
        return mixture

    def chosen(self, loss_of: Callable[[Any], float], budget: float) -> list[str]:
        """Return the layers to give 8 bits: the least harmful first, while the sum of what each costs fits the budget.

        Args:
            loss_of: what a model costs; asked once a layer, with that layer alone in 8 bits.
        """
        losses = {layer: loss_of(self.model([layer])) for layer in self.layers}
        order = sorted(losses, key=losses.__getitem__)
        within = np.cumsum([losses[layer] for layer in order]) <= budget
        return [layer for layer, fits in zip(order, within, strict=True) if fits]


def _counts(op: Any) -> bool:
    """Return whether an operation is a convolution over more than one pixel with constant weights."""
    if op.get_type_name() not in _CONVOLUTIONS or op.input(1).get_source_output().get_node().get_type_name() != (
        "Constant"
    ):
        return False
    sides = list(op.output(0).get_partial_shape())[2:]
    return any(side.is_dynamic or side.get_length() > 1 for side in sides)


def _takes_bits(op: Any, layers: Mapping[str, Any]) -> bool:
    """Return whether nncf would quantise an operation that is none of the layers: products, means, sums of two maps."""
    if op.get_friendly_name() in layers or op.get_type_name() in ("Constant", "Parameter", "Result", "Swish", "Relu"):
        return False
    return op.get_type_name() != "Add" or not any(_is_constant(source) for source in op.inputs())


def _weights_of(layer: Any) -> tuple[Any, Any]:
    """Return copies of a convolution's weights and of its bias, None without one."""
    bias = _bias_input(layer)
    weights = layer.input(1).get_source_output().get_node().get_data().copy()
    return weights, None if bias is None else bias.get_source_output().get_node().get_data().copy()


def _bias_input(layer: Any) -> Any:
    """Return the input that adds a convolution's bias, or None."""
    readers = [target.get_node() for target in layer.output(0).get_target_inputs()]
    if len(readers) != 1 or readers[0].get_type_name() != "Add":
        return None
    return next((source for source in readers[0].inputs() if _is_constant(source)), None)


def _is_constant(source: Any) -> bool:
    return source.get_source_output().get_node().get_type_name() == "Constant"
