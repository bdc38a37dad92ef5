"""Regions, spacing and numbers of signals, volumes and clips, in `explain` and in `fit`."""

import keras
import numpy as np
import pytest
from keras import layers
from scipy.ndimage import center_of_mass

from keras_cam_callbacks import Explainer, HeatmapLogger, Regions, explain
from keras_cam_callbacks.metrics import METRICS

RNG = np.random.default_rng(0)
KINDS = {
    # shape, a box in positions, the same as slices, the axes' numbers
    "signal": ((40, 2), (10, 25), np.s_[10:25], ["centre_x"]),
    "volume": ((6, 12, 10, 1), (2, 3, 1, 8, 9, 4), np.s_[1:4, 3:9, 2:8], ["centre_x", "centre_y", "centre_z"]),
    "clip": ((6, 12, 10, 3), (2, 3, 1, 8, 9, 4), np.s_[1:4, 3:9, 2:8], ["centre_x", "centre_y", "centre_z"]),
}


def linear_model(shape, inside):
    """A model whose class 1 is the mean over a box, so that its saliency is even there and nowhere else."""
    weights = np.zeros((*shape, 2), np.float32)
    part = weights[(*(inside if isinstance(inside, tuple) else (inside,)), slice(None), 1)]
    part[:] = 1 / part.size
    dense = layers.Dense(2)
    # The layer tells that its input is no grey image.
    pass_on = {2: layers.ZeroPadding1D(0), 4: layers.ZeroPadding3D(0)}[len(shape)]
    model = keras.Sequential([keras.Input(shape), pass_on, layers.Flatten(), dense])
    dense.set_weights([weights.reshape(-1, 2), np.zeros(2)])
    return model


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_measured_is_where_the_box_is(kind):
    shape, box, inside, names = KINDS[kind]
    model = linear_model(shape, inside)
    inputs = RNG.random((5, *shape), np.float32)
    space = shape[:-1]
    mask = np.zeros(space, bool)
    mask[inside] = True
    share = mask.mean()
    regions = [box, mask, {1: box, 0: ~mask}, {0: box}, None]
    found = explain(model, inputs, method="saliency", target=1, regions=regions).metrics()
    assert set(found) == {"confidence", "area", "entropy", "blobs", "magnitude", *names, *METRICS["regions"]}
    for name, expected in {
        "energy_in_region": 1, "region_iou": 1, "pointing": 1, "peak_outside": 0, "energy_ratio": 1 / share,
    }.items():  # fmt: skip
        np.testing.assert_allclose(found[name], [expected] * 3 + [np.nan] * 2, rtol=1e-5, err_msg=name)
    np.testing.assert_allclose(found["area"], share)
    assert (found["blobs"] == 1).all()
    centres = [(at + 0.5) / side for at, side in zip(center_of_mass(mask), space, strict=True)][::-1]
    np.testing.assert_allclose([found[name][0] for name in names], centres, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_an_explainer_takes_them_anew_for_each_batch(kind):
    shape, box, inside, _ = KINDS[kind]
    inputs = RNG.random((2, *shape), np.float32)
    explainer = Explainer(linear_model(shape, inside), inputs[:1], method="saliency", target=1)
    space = shape[:-1]
    shares = np.array(box) / (*space[::-1], *space[::-1])
    spacing = (3.0, 0.5, 0.25)[: len(space)]
    found = explainer(inputs, regions=Regions([shares, None], "rel_xyxy"), spacing=spacing)
    assert found.batch.space.spacing == spacing
    np.testing.assert_allclose(found.metrics()["energy_in_region"], [1, np.nan], rtol=1e-5)
    assert explainer(inputs).batch.space.spacing == ()
    with pytest.raises(ValueError, match="one number for each axis"):
        explainer(inputs, spacing=(1.0,) * (len(space) + 1))


@pytest.mark.filterwarnings("ignore:.*explain nothing")
@pytest.mark.parametrize("kind", KINDS)
def test_in_fit(kind):
    shape, box, inside, names = KINDS[kind]
    model = linear_model(shape, inside)
    model.compile(keras.optimizers.SGD(2e-5), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    inputs, labels = RNG.random((4, *shape), np.float32), np.array([0, 1, 0, 1])
    inputs[(slice(None), *(inside if isinstance(inside, tuple) else (inside,)))] += 2
    logger = HeatmapLogger(
        (inputs, labels), method="saliency", target=1, tracker=None, metrics="all", faithfulness_freq=1,
        regions=[box] * 4, spacing=(2.0, 1.0, 1.0)[: len(shape) - 1],
    )  # fmt: skip
    history = model.fit(inputs, labels, epochs=2, callbacks=[logger], verbose=0).history
    measured = {name.removeprefix("saliency_") for name in history} - {"loss"}
    lacking = {"centre_x", "centre_y", "centre_z"} - {*names}
    assert measured == {name for group in METRICS.values() for name in group} - lacking
    assert history["saliency_energy_in_region"][0] > 0.9
    assert 0 < history["saliency_moved"][1] < 0.2
    assert np.isfinite([values[-1] for values in history.values()]).all()
    # The mean over the box falls as the box is taken away first, and rises as it is put back first.
    assert history["saliency_deletion"][0] < history["saliency_insertion"][0]
    for name in lacking:
        with pytest.raises(ValueError, match=f"`metrics` can name {name} only where maps have"):
            model.fit(inputs, labels, verbose=0, callbacks=[
                HeatmapLogger((inputs, labels), method="saliency", tracker=None, metrics=[name])
            ])  # fmt: skip
