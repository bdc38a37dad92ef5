"""Models of Keras 2. It is not installed here: its file is a real one, its classes stand in by their module's name."""

import keras
import numpy as np
import pytest
from command import run
from models import functional, images
from paths import TESTS

from keras_cam_callbacks import Explainer, GradCAMLogger, activation_grids, build_cam_model, explain, filter_patterns
from keras_cam_callbacks.network.legacy import is_keras2

WAY_OUT = r"a model of Keras 2.*TF_USE_LEGACY_KERAS=1.*keras\.models\.load_model\('model\.h5'\)"


@pytest.fixture(params=["tf_keras.src.engine.training", "keras.engine.training", "tensorflow.python.keras.engine"])
def old(request):
    kind = type("Model", (), {"__module__": request.param, "name": "old", "built": True})
    return type("Mine", (kind,), {"__module__": "__main__"})()


@pytest.mark.parametrize(
    "use",
    [
        lambda old: explain(old, images(2)),
        lambda old: Explainer(old, like=images(2)),
        lambda old: activation_grids(old, images(2)),
        lambda old: filter_patterns(old, "conv"),
        lambda old: build_cam_model(old, 3),
        lambda old: GradCAMLogger(images(2), tracker=None).explain(old),
    ],
    ids=["explain", "Explainer", "activation_grids", "filter_patterns", "build_cam_model", "logger"],
)
def test_it_is_named_with_the_way_out(old, use):
    with pytest.raises(TypeError, match=f"must be a Keras 3 model, `import keras`. Received: 'old', {WAY_OUT}"):
        use(old)


def test_as_the_part_of_a_model(old):
    model = functional().model
    model.compile("sgd", "mse")
    with pytest.raises(TypeError, match=WAY_OUT):
        model.fit(images(4), np.zeros((4, 3)), verbose=0, callbacks=[GradCAMLogger(images(2), tracker=None, model=old)])
    assert int(model.optimizer.iterations) == 0


def test_keras_3_is_not_taken_for_it():
    assert not is_keras2(functional().model)
    assert not is_keras2(keras.layers.Dense(1))
    assert not is_keras2("vgg16")


@pytest.mark.parametrize("command", ["layers", "explain"])
def test_a_file_of_keras_2(command, tmp_path):
    picture = TESTS.parent / "docs" / "report.jpg"
    arguments = [picture, "--out", tmp_path / "out.png"] if command == "explain" else []
    done = run(command, TESTS / "data" / "keras2.keras", *arguments)
    assert done.exit_code == 1
    assert "must be saved by Keras 3" in done.stderr
    assert "which Keras 2.21.0 saved" in done.stderr
    assert "model.save('model.h5')" in done.stderr
