"""What every method must do, as other packages test theirs."""

import pytest

from keras_cam_callbacks import METHODS, SmoothGrad
from keras_cam_callbacks.testing import MethodContract

OF_ATTENTION = [name for name, method in METHODS.items() if "readout" in method.needs]


@pytest.mark.parametrize("name", METHODS)
class TestOurs(MethodContract):
    @pytest.fixture(autouse=True)
    def _named(self, name):
        self.name = name
        self.in_a_model = name not in OF_ATTENTION  # tests/methods/test_attention.py

    def make(self):
        return self.name


class TestFunction(MethodContract):
    def make(self):
        return lambda activations, gradients: (activations * gradients).sum(-1)


class TestWithOptions(MethodContract):
    def make(self):
        return SmoothGrad(samples=3)
