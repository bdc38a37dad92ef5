"""Validation data as each framework has it: tensors, wherever they lie, and what yields them."""

import keras
import numpy as np
import pytest
from command import run_python
from fits import X, Y, fit, tiny_model, weights
from keras import ops
from paths import ROOT, TESTS

from keras_cam_callbacks import GradCAMLogger, MemoryTracker, explain

BOX = (2, 3, 9, 8)
of_torch = pytest.mark.only_on("torch", reason="tensors and loaders of its own")
of_jax = pytest.mark.only_on("jax", reason="its arrays are each on a device")


class Sequence(keras.utils.PyDataset):
    """Five samples a batch."""

    def __init__(self):
        super().__init__()

    def __len__(self):
        return 3

    def __getitem__(self, index):
        rows = slice(5 * index, 5 * index + 5)
        return X[rows], Y[rows]


def tensors():
    return ops.convert_to_tensor(X), ops.convert_to_tensor(Y)


def batches():
    x, y = tensors()
    return [(x[:5], y[:5]), (x[5:], y[5:])]


def differentiated():
    x, y = tensors()
    return x.requires_grad_(), y


def loader(shuffle=False):
    from torch.utils.data import DataLoader, TensorDataset

    return DataLoader(TensorDataset(*tensors()), batch_size=5, shuffle=shuffle)


KINDS = {
    "tensors": tensors,
    "a list of batches of tensors": batches,
    "a generator of them": lambda: iter(batches()),
    "a list of tensors, an image each": lambda: list(tensors()[0]),
    "PyDataset": Sequence,
    "tensors that are differentiated": pytest.param(differentiated, marks=of_torch),
    "a list of such images": pytest.param(lambda: list(differentiated()[0]), marks=of_torch),
    "DataLoader": pytest.param(loader, marks=of_torch),
}


@pytest.mark.parametrize("build", KINDS.values(), ids=KINDS)
def test_maps_are_those_of_the_same_numbers(build):
    loggers = [
        GradCAMLogger(data, "conv2", target=1, tracker=MemoryTracker(), max_samples=12, prefix=name, on_error="raise")
        for name, data in (("plain", X), ("other", build()))
    ]
    model = tiny_model()
    fit(*loggers, model=model, epochs=1)
    expected, record = (logger.tracker.records[0] for logger in loggers)
    np.testing.assert_array_equal(record.heatmaps, expected.heatmaps)
    one, other = (logger.tracker.config for logger in loggers)
    assert one.fingerprints == other.fingerprints


@of_torch
@pytest.mark.parametrize("shuffle", [False, True])
def test_a_loader_that_is_read_draws_no_number_of_the_trainings(shuffle):
    """Keras shuffles by the same generator, of which each reading of a loader draws."""
    import torch

    trained = []
    for ours in (False, True):
        keras.utils.set_random_seed(3)
        logger = GradCAMLogger(loader(shuffle), tracker=MemoryTracker(), on_error="raise")
        model = tiny_model()
        fit(*[logger] * ours, model=model, shuffle=True)
        trained.append((weights(model), torch.get_rng_state().tolist()))
    assert trained[0] == trained[1]


@of_torch
def test_tensors_beside_the_images():
    """Pictures for people, and where the objects are."""
    import torch

    model = tiny_model()
    mask = np.zeros((len(X), *X.shape[1:3]), bool)
    mask[:, BOX[1] : BOX[3], BOX[0] : BOX[2]] = True
    shown = torch.tensor(X).requires_grad_()
    expected = explain(model, (X, Y), display=X, regions=list(mask))
    found = explain(model, (X, Y), display=shown, regions=list(torch.tensor(mask)))
    np.testing.assert_array_equal(np.stack(found.batch.display), np.stack(expected.batch.display))
    for one, other in zip(found.batch.regions, expected.batch.regions, strict=True):
        np.testing.assert_array_equal(one.mask, other.mask)
    boxes = explain(model, (X, Y), regions=list(torch.tensor([BOX] * len(X))))
    np.testing.assert_allclose(boxes.metrics()["energy_in_region"], expected.metrics()["energy_in_region"], rtol=1e-5)


ELSEWHERE = """
import jax, keras, numpy as np
from fits import X, Y, fit, tiny_model, weights
from keras_cam_callbacks import GradCAMLogger, MemoryTracker
first, second = jax.devices()

def batches():
    for rows in (slice(0, 5), slice(5, 12)):
        yield jax.device_put(X[rows], second), jax.device_put(Y[rows], second)

data = {"here": (X, Y), "there": (jax.device_put(X, second), jax.device_put(Y, second)), "batches": batches()}
loggers = [
    GradCAMLogger(d, tracker=MemoryTracker(), on_error="raise", max_samples=12, prefix=name)
    for name, d in data.items()
]
model = tiny_model()
fit(*loggers, model=model)
expected, *others = [logger.tracker.records for logger in loggers]
for records in others:
    assert len(records) == 3
    for record, same in zip(records, expected):
        np.testing.assert_array_equal(record.heatmaps, same.heatmaps)
        assert np.abs(same.heatmaps).max() > 0
assert all(variable.value.devices() == {first} for variable in model.variables)
ours, bare = weights(model), tiny_model()
fit(model=bare)
assert weights(bare) == ours
print("the same")
"""


@of_jax
def test_arrays_on_another_device():
    two = "--xla_force_host_platform_device_count=2"
    done = run_python(ELSEWHERE, PYTHONPATH=f"{TESTS}:{ROOT}", XLA_FLAGS=two)
    assert done.stdout.splitlines()[-1:] == ["the same"], done.stderr
