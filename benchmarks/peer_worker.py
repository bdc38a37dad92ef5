"""One process of `peers.py`: Grad-CAM by one library, in an environment that has that library and not the others.

It takes requests `{"do": name, ...}` as lines of JSON and answers each with one line: what was asked for, or
`{"error": ...}`. Times are wall and CPU seconds, the latter of all threads. It needs numpy, TensorFlow and the library
alone.

    python benchmarks/peer_worker.py ours
"""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # Before TensorFlow is loaded.

import atexit
import json
import shutil
import sys
import tempfile
import traceback
from collections.abc import Callable
from importlib import metadata
from itertools import count
from typing import Any

from measuring import seconds

PACKAGES = ("tensorflow", "keras", "tf-keras", "numpy", "scipy", "tf-explain", "tf-keras-vis", "xplique")

Maps = Callable[[], Any]


def ours(model: Any, images: Any, layer: str, index: int) -> Maps:
    from keras_cam_callbacks import GradCAMLogger

    logger = GradCAMLogger(images, layer, target=index, max_samples=len(images), tracker=None, on_error="raise")
    logger.set_model(model)
    logger.on_train_begin()
    return lambda: logger.explain().heatmaps


def our_epochs(model: Any, images: Any, layer: str, index: int) -> Maps:
    """What a fit does: maps, numbers, overlays and the record on disk."""
    from keras_cam_callbacks import GradCAMLogger

    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    logger = GradCAMLogger(images, layer, target=index, tracker="disk", log_dir=folder, on_error="raise")
    logger.set_model(model)
    logger.on_train_begin({})
    epochs = count()
    return lambda: logger.on_epoch_end(next(epochs), {})


def keras_io(model: Any, images: Any, layer: str, index: int) -> Maps:
    """The example of Keras' own site: image by image a second model, run under a tape, and pooled gradients."""
    import keras
    import numpy as np
    import tensorflow as tf

    def explained(image: Any) -> Any:
        both = keras.Model(model.input, [model.get_layer(layer).output, model.output])
        with tf.GradientTape() as tape:
            activations, scores = both(image)
            score = scores[:, index]
        pooled = tf.reduce_mean(tape.gradient(score, activations), axis=(0, 1, 2))
        return tf.nn.relu(tf.squeeze(activations[0] @ pooled[:, None], -1)).numpy()

    return lambda: np.stack([explained(image[None]) for image in images])


def tf_explain(model: Any, images: Any, layer: str, index: int) -> Maps:
    """Its maps without the pictures that `explain` draws of them, and without guided gradients."""
    import numpy as np
    from tf_explain.core.grad_cam import GradCAM

    def explained() -> Any:
        found = GradCAM.get_gradients_and_filters(model, images, layer, index, False)
        return np.stack([each.numpy() for each in GradCAM.generate_ponderated_output(*found)])

    return explained


def tf_keras_vis(model: Any, images: Any, layer: str, index: int) -> Maps:
    """Its maps at the layer's size, for the enlarged ones cost more."""
    from tf_keras_vis.gradcam import Gradcam
    from tf_keras_vis.utils.scores import CategoricalScore

    gradcam, score = Gradcam(model), CategoricalScore([index] * len(images))
    settings = {"seek_penultimate_conv_layer": False, "expand_cam": False, "normalize_cam": False}
    return lambda: gradcam(score, images, penultimate_layer=layer, **settings)


def xplique(model: Any, images: Any, layer: str, index: int) -> Maps:
    """Its maps are always enlarged to the size of the images."""
    import numpy as np
    from xplique.attributions import GradCAM

    targets = np.zeros((len(images), model.output_shape[-1]), np.float32)
    targets[:, index] = 1
    explainer = GradCAM(model, conv_layer=layer, batch_size=32)
    return lambda: explainer(images, targets).numpy()[..., 0]


PEERS: dict[str, Callable[..., Maps]] = {
    "ours": ours,
    "our_epochs": our_epochs,
    "keras_io": keras_io,
    "tf_explain": tf_explain,
    "tf_keras_vis": tf_keras_vis,
    "xplique": xplique,
}


class Worker:
    """One library on one model.

    Args:
        peer: Name in PEERS.
    """

    def __init__(self, peer: str) -> None:
        self.peer = peer
        self.maps: Maps | None = None
        self.bare: Maps | None = None

    def versions(self) -> dict[str, Any]:
        """The versions of what matters in this environment."""
        found = {each.metadata["Name"].lower().replace("_", "-"): each.version for each in metadata.distributions()}
        return {name: found[name] for name in PACKAGES if name in found}

    def load(self, model: str, folder: str, samples: int, layer: str, index: int) -> dict[str, Any]:
        """Makes a model of given weights, and reads the images. Neither is timed."""
        import keras
        import numpy as np

        make = getattr(keras.applications, model, None)
        if make is None:
            self.model = keras.models.load_model(f"{folder}/{model}.keras")
        else:
            self.model = make(weights=None, classifier_activation=None)
            with np.load(f"{folder}/{model}.npz") as weights:
                self.model.set_weights([weights[name] for name in weights.files])
        self.images = np.load(f"{folder}/{model}_images.npy")[:samples]
        self.layer, self.index = layer, index
        return {}

    def predict(self) -> dict[str, Any]:
        """The model's own `predict` of the same images in one batch."""
        return {"seconds": seconds(lambda: self.model.predict(self.images, batch_size=32, verbose=0))}

    def first(self) -> dict[str, Any]:
        """All that leads to the first maps."""

        def begin() -> None:
            self.maps = PEERS[self.peer](self.model, self.images, self.layer, self.index)
            self.maps()

        return {"seconds": seconds(begin)}

    def later(self) -> dict[str, Any]:
        """The same maps once more."""
        assert self.maps is not None, "`first` comes before."
        return {"seconds": seconds(self.maps)}

    def forward(self) -> dict[str, Any]:
        """A bare forward pass, compiled, of a tensor that is there; it is traced before the time is taken."""
        if self.bare is None:
            import tensorflow as tf

            inputs = tf.constant(self.images)
            passed = tf.function(lambda x: self.model(x, training=False), autograph=False)
            compiled = passed.get_concrete_function(tf.TensorSpec((None, *inputs.shape[1:]), tf.float32))
            self.bare = lambda: compiled(inputs).numpy()
            self.bare()
        return {"seconds": seconds(self.bare)}

    def save(self, path: str) -> dict[str, Any]:
        """Writes the maps as an array (samples, h, w), for a check that all compute the same."""
        import numpy as np

        assert self.maps is not None, "`first` comes before."
        np.save(path, np.asarray(self.maps()))
        return {}


def answered(worker: Worker, request: dict[str, Any]) -> dict[str, Any]:
    """Returns what a method of the worker, named by "do", gives for the rest of the request."""
    arguments = dict(request)
    try:
        found: dict[str, Any] = getattr(worker, arguments.pop("do"))(**arguments)
    except Exception as error:  # Whatever a library raises is a result.
        traceback.print_exc()
        return {"error": f"{type(error).__name__}: {error}"}
    return found


def main(peer: str) -> None:
    """Answers requests until there are no more."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # What libraries print is no answer.
    worker = Worker(peer)
    for line in sys.stdin:
        print(json.dumps(answered(worker, json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
