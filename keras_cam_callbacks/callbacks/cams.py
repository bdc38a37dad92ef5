"""The loggers of one method: `HeatmapLogger` under the names that people look for."""

from __future__ import annotations

import inspect
import sys
from typing import TYPE_CHECKING, Any

from .heatmaps import HeatmapLogger
from .settings import HeatmapSettings

if TYPE_CHECKING:
    from typing_extensions import Unpack
elif sys.version_info >= (3, 11):
    from typing import Unpack


def _signature_without(name: str) -> inspect.Signature:
    """Returns the signature of HeatmapLogger less one parameter, for help and completion."""
    signature = inspect.signature(HeatmapLogger)
    return signature.replace(parameters=[p for p in signature.parameters.values() if p.name != name])


class GradCAMLogger(HeatmapLogger):
    """Logs Grad-CAM heatmaps of a fixed validation batch at epoch ends. Works on any model with a feature map.

    Args:
        validation_data: What is explained, as in `HeatmapLogger`.
        layer_name: The layer whose activations are explained; None for the last feature map.
        **settings: All other settings of `HeatmapLogger` but `method`.

    Raises:
        ValueError: As `HeatmapLogger`.
        TypeError: As `HeatmapLogger`.

    Reference:
        Selvaraju et al., Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization, ICCV 2017,
        arXiv 1610.02391.

    Example:
        >>> logger = GradCAMLogger(validation_data, class_names=["cat", "dog"])
        >>> model.fit(x, y, validation_data=validation_data, callbacks=[logger])
    """

    __signature__ = _signature_without("method")

    def __init__(self, validation_data: Any, layer_name: Any = None, **settings: Unpack[HeatmapSettings]) -> None:
        super().__init__(validation_data, layer_name, method="gradcam", **settings)


class CAMLogger(HeatmapLogger):
    """Logs class activation maps of a fixed validation batch at epoch ends, for GAP + Dense and GAP heads.

    CAM needs no gradients, but a model that ends in global average pooling and at most one dense layer, such as
    `build_cam_model` makes. Training tells before the first batch where a model has no such head.

    Args:
        validation_data: What is explained, as in `HeatmapLogger`.
        layer_name: The layer that feeds the pooling; None finds it.
        **settings: All other settings of `HeatmapLogger` but `method`.

    Raises:
        ValueError: As `HeatmapLogger`.
        TypeError: As `HeatmapLogger`.

    Reference:
        Zhou et al., Learning Deep Features for Discriminative Localization, CVPR 2016, arXiv 1512.04150.

    Example:
        >>> model = build_cam_model(keras.applications.VGG16(include_top=False), classes=2)
        >>> model.compile("adam", "sparse_categorical_crossentropy")
        >>> model.fit(x, y, callbacks=[CAMLogger(validation_data)])
    """

    __signature__ = _signature_without("method")

    def __init__(self, validation_data: Any, layer_name: Any = None, **settings: Unpack[HeatmapSettings]) -> None:
        super().__init__(validation_data, layer_name, method="cam", **settings)
