"""Where an image's pixels are in what is computed of it: its axes, followed through the record of a run.

Each axis of the image but that of samples is followed. An operation keeps it at one axis of what it puts out, takes
all of it together, as pooling does, or breaks it up; which, is known of each kind of operation that is named here, and
of those that only view a tensor otherwise by the strides of such a view.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from .graphs import ancestors, downstream
from .recording import Operation, Recorder, Ref

_REDUCED, _REORDERED, _LOST = -1, -2, -3
"""What became of an axis that is none any more: taken together, broken up by another order, or anything else."""

_CONVOLVED = ("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
_PRODUCTS = ("matmul", "rmatmul", "mm", "bmm", "addmm", "baddbmm", "linear", "einsum", "tensordot", "dot")
CONVOLUTIONS = (*_CONVOLVED, *_PRODUCTS, "scaled_dot_product_attention", "multi_head_attention_forward")
"""Convolutions and matrix products."""

_POOLS = tuple(f"{kind}_pool{axes}d" for kind in ("max", "avg", "lp") for axes in (1, 2, 3))
_POOLS += tuple(f"{name}_with_indices" for name in _POOLS[:3])
_RESIZES = ("interpolate", "upsample", "upsample_bilinear", "upsample_nearest", "repeat_interleave")
_VIEWS = (
    *("permute", "transpose", "swapaxes", "swapdims", "movedim", "moveaxis", "t", "T", "mT", "adjoint", "reshape"),
    *("view", "flatten", "unflatten", "squeeze", "unsqueeze", "expand", "expand_as", "broadcast_to", "getitem"),
    *("select", "narrow", "ravel", "view_as", "reshape_as", "split", "chunk", "unbind", "tensor_split"),
)
_ORDERS = tuple(name for name in _VIEWS if name not in ("getitem", "select", "narrow", "split", "chunk", "unbind"))
_REDUCTIONS = (
    *("mean", "sum", "amax", "amin", "max", "min", "var", "std", "var_mean", "std_mean", "norm", "prod", "logsumexp"),
    *("linalg_norm", "vector_norm", "linalg_vector_norm", "any", "all", "nanmean", "nansum", "argmax", "argmin"),
)
_ELEMENTWISE = (
    *("add", "radd", "sub", "rsub", "mul", "rmul", "multiply", "div", "rdiv", "divide", "true_divide", "truediv"),
    *("rtruediv", "subtract", "floor_divide", "floordiv", "pow", "rpow", "float_power", "square", "sqrt", "rsqrt"),
    *("exp", "expm1", "log", "log1p", "log2", "log10", "reciprocal", "neg", "negative", "abs", "absolute", "sign"),
    *("maximum", "minimum", "fmax", "fmin", "clamp", "clamp_min", "clamp_max", "clip", "round", "floor", "ceil"),
    *("trunc", "remainder", "where", "isnan", "isfinite", "isinf", "nan_to_num", "relu", "relu6", "leaky_relu", "elu"),
    *("selu", "celu", "gelu", "silu", "sigmoid", "expit", "tanh", "softplus", "softsign", "hardtanh", "hardswish"),
    *("hardsigmoid", "hardshrink", "softshrink", "tanhshrink", "threshold", "mish", "logsigmoid", "prelu", "erf"),
    *("batch_norm", "layer_norm", "group_norm", "instance_norm", "rms_norm", "normalize", "local_response_norm"),
    *("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "lt", "le", "gt", "ge", "eq", "ne"),
    *("logical_and", "logical_or", "logical_not", "masked_fill", "addcmul", "addcdiv", "lerp", "zeros_like"),
    *("ones_like", "less", "greater", "less_equal", "greater_equal", "fake_quantize_per_tensor_affine", "sin", "cos"),
)
_BORDER = 3  # px or cells
_PADDED, _WIDE, _RESIZED = "padded", "wide", "resized"

Axes = dict[int, int]
"""For each axis of the image at which axis of a tensor it is; negative where it is none any more."""


class Places:
    """Follows the axes of one image.

    Attributes:
        axes: By the number of each tensor that comes from the image, the image's axes in it.
        borders: Likewise what was done to the size: "padded", "wide" for a wide border, "resized".
    """

    def __init__(self, record: Recorder, image: int, through: bool) -> None:
        """Follows them.

        Args:
            record: The record.
            image: The image's number.
            through: Whether they are followed through convolutions, or up to the first ones.
        """
        self._record = record
        self.axes: dict[int, Axes] = {image: {axis: axis for axis in range(1, len(record.shapes[image]))}}
        self.borders: dict[int, frozenset[str]] = {image: frozenset()}
        for operation in record.operations:
            sources = [number for number in operation.inputs if number in self.axes]
            if not sources or (operation.name in CONVOLUTIONS and not through):
                continue
            borders: frozenset[str] = frozenset().union(*(self.borders[number] for number in sources))
            borders |= self._border(operation, sources)
            for at, output in enumerate(operation.outputs):
                self.axes[output] = self._behind(operation, sources, output, at)
                self.borders[output] = borders

    def is_map(self, number: int, along: range | None = None) -> bool:
        """Tells whether a tensor has two axes of the image at least, in their order.

        Args:
            number: The tensor's number.
            along: Among which of its axes these must be; any where None.
        """
        axes = [axis for _, axis in sorted(self.axes[number].items()) if axis >= 0]
        axes = axes if along is None else [axis for axis in axes if axis in along]
        return len(axes) > 1 and axes == sorted(axes)

    def _behind(self, operation: Operation, sources: list[int], output: int, at: int) -> Axes:
        """Returns where the image's axes are in one of an operation's outputs."""
        name, shape = operation.name, self._record.shapes[output]
        first = self.axes[sources[0]]
        if name in _ELEMENTWISE or (name in _REDUCTIONS and len(operation.inputs) > 1):
            return self._together(sources, shape)
        if name in ("cat", "concat", "concatenate"):
            along = int(operation.argument(1, "dim", operation.settings.get("axis", 0))) % len(shape)
            merged = self._together(sources, shape)
            return {label: _LOST if axis == along else axis for label, axis in merged.items()}
        if name == "stack":
            along = int(operation.argument(1, "dim", operation.settings.get("axis", 0))) % len(shape)
            merged = self._together(sources, None)
            return {label: axis + (axis >= along) if axis >= 0 else axis for label, axis in merged.items()}
        if len(sources) > 1:
            return _lost(*(self.axes[number] for number in sources))
        if name in _CONVOLVED:
            spatial = len(shape) - int(name[-2])
            return {label: _LOST if 0 <= axis < spatial else axis for label, axis in first.items()}
        if name in _POOLS:
            return first
        if name.startswith("adaptive"):
            return {label: _REDUCED if axis > 0 and shape[axis] == 1 else axis for label, axis in first.items()}
        if name in ("matmul", "linear", "mm") and operation.inputs and operation.inputs[0] == sources[0]:
            return {label: _LOST if axis == len(shape) - 1 else axis for label, axis in first.items()}
        if name in (*_RESIZES, "pad"):
            return first
        if name in _REDUCTIONS:
            return _reduced(operation, first, len(self._record.shapes[sources[0]]), len(shape))
        if name in _VIEWS:
            return self._viewed(operation, sources[0], first, at)
        return _lost(first)

    def _together(self, sources: list[int], shape: tuple[int, ...] | None) -> Axes:
        """Returns where axes are when tensors are broadcast to a shape; None for tensors of one shape."""
        merged: Axes = {}
        for number in sources:
            before = self._record.shapes[number]
            shift = 0 if shape is None else len(shape) - len(before)
            for label, axis in self.axes[number].items():
                moved = axis + shift if axis >= 0 else axis
                other = merged.get(label, moved)
                if moved >= 0 and other >= 0:
                    merged[label] = moved if moved == other else _LOST
                elif _REDUCED in (moved, other):
                    merged[label] = max(moved, other) if min(moved, other) >= _REDUCED else min(moved, other)
                else:
                    merged[label] = min(moved, other)
        return merged

    def _border(self, operation: Operation, sources: list[int]) -> frozenset[str]:
        if operation.name in _RESIZES:
            return frozenset((_RESIZED,))
        if operation.name != "pad":
            return frozenset()
        widths = list(operation.argument(1, "pad", ()))
        rank = len(self._record.shapes[sources[0]])
        placed = {axis for axis in self.axes[sources[0]].values() if axis >= 0}
        of_axes = [width for i, width in enumerate(widths) if rank - 1 - i // 2 in placed and width]
        if not of_axes:
            return frozenset()
        return frozenset((_PADDED, *([_WIDE] if max(of_axes) > _BORDER or min(of_axes) < 0 else [])))

    def _viewed(self, operation: Operation, source: int, axes: Axes, at: int) -> Axes:
        """Returns where axes are in a view of a tensor: where their strides are."""
        before = torch.empty(self._record.shapes[source], device="meta")

        def filled(value: Any) -> Any:
            if isinstance(value, Ref):
                same = value.number == source
                return before if same else torch.empty(self._record.shapes[value.number], device="meta")
            return type(value)(filled(part) for part in value) if type(value) in (tuple, list) else value

        settings = {name: filled(value) for name, value in operation.settings.items()}
        try:
            result = operation.function(*map(filled, operation.arguments), **settings)
        except (RuntimeError, TypeError, ValueError, IndexError, NotImplementedError):
            return _lost(axes)  # Such as by numbers in a tensor.
        view = result if isinstance(result, torch.Tensor) else result[at]
        ended = _REORDERED if operation.name in _ORDERS else _LOST
        moved: Axes = {}
        for label, axis in axes.items():
            moved[label] = axis
            if axis >= 0:
                size, stride = before.shape[axis], before.stride(axis)
                same = [i for i in range(1, view.ndim) if view.shape[i] == size and view.stride(i) == stride]
                if size == 1:
                    moved[label] = _REDUCED
                else:
                    moved[label] = same[0] if same and (view is before or view._base is before) else ended
        return moved


def _lost(*several: Mapping[int, int]) -> Axes:
    """Returns the axes behind an operation that may move anything; what was taken together stays so."""
    return {label: axis if axis == _REDUCED else _LOST for axes in several for label, axis in axes.items()}


def _reduced(operation: Operation, axes: Axes, before: int, after: int) -> Axes:
    along: Any = operation.argument(1, "dim", operation.settings.get("axis"))
    if operation.name in ("norm", "linalg_norm", "vector_norm", "linalg_vector_norm"):
        along = operation.argument(2, "dim", operation.settings.get("axis"))
    if along is None:
        return dict.fromkeys(axes, _REDUCED)
    dims = {int(dim) % before for dim in (along if isinstance(along, (tuple, list)) else [along])}
    kept = before == after
    return {
        label: _REDUCED if axis in dims else axis if axis < 0 or kept else axis - sum(dim < axis for dim in dims)
        for label, axis in axes.items()
    }


def keeps_places(record: Recorder, number: int, image: int) -> bool:
    """Tells whether nothing on the way from an image to a map moves values from their place; see `contract.Run`."""
    if len(record.shapes[number]) != 4:
        return False
    places = Places(record, image, through=True)
    return number in places.axes and places.is_map(number) and _WIDE not in places.borders[number]


def fronts(record: Recorder, number: int, image: int) -> list[tuple[int, str]]:
    """Returns what goes into the first convolutions on the way from an image; see `contract.Run.fronts`.

    Returns:
        The numbers of these tensors, and what became of the image's pixels in them.
    """
    places = Places(record, image, through=False)
    on_way = ancestors(record, [number])
    convolved = [
        operation
        for operation in record.operations
        if operation.name in CONVOLUTIONS and on_way.intersection(operation.outputs)
    ]
    from_image = downstream(record, [image])
    ways: dict[int, str] = {}
    for operation in convolved:
        for taken in from_image.intersection(operation.inputs):
            entry = _entered(record, taken)
            if taken in places.axes:
                ways.setdefault(entry, _way(record, places, operation.name, taken, entry))
    if any(from_image.intersection(operation.inputs) for operation in convolved):
        return list(ways.items())
    return [(number, _way(record, places, "", number, number))] if number in places.axes else []


def _entered(record: Recorder, number: int) -> int:
    """Returns what a layer was given whose convolution takes a tensor: Keras puts channels first, and a border on."""
    source = record.maker[number]
    if source is not None and source.name == "pad" and _is_turned(record, source.inputs[0]):
        number = source.inputs[0]
    turning = record.maker[number] if _is_turned(record, number) else None
    return number if turning is None else turning.inputs[0]


def _is_turned(record: Recorder, number: int) -> bool:
    maker = record.maker[number]
    if maker is None or maker.name != "permute":
        return False
    order = maker.argument(1, "dims")
    rank = len(record.shapes[number])
    return isinstance(order, (tuple, list)) and list(order) == [0, rank - 1, *range(1, rank - 1)]


def _way(record: Recorder, places: Places, kind: str, taken: int, entry: int) -> str:
    borders, rank = places.borders[entry], len(record.shapes[taken])
    along = range(rank - int(kind[-2]), rank) if kind in _CONVOLVED else range(rank - 1) if kind else None
    # Patches in a row, of which a grid may be made again, are in another order.
    kept = places.is_map(taken, along) if rank == 4 else _LOST not in places.axes[taken].values()
    # How wide a border is, is only seen where nothing else changes the size.
    if not kept or {_PADDED, _RESIZED} <= borders:
        return "moved"
    return "padded" if _PADDED in borders else "in place"
