import platform
import re

import keras
import numpy as np
from interpreter import fresh

import keras_cam_callbacks
from keras_cam_callbacks.versions import versions


def test_versions_of_all_that_heatmaps_depend_on():
    found = versions()

    backend = keras.backend.backend()
    assert set(found) == {"keras_cam_callbacks", "python", "keras", backend, "numpy", "opencv"}
    assert found["keras_cam_callbacks"] == keras_cam_callbacks.__version__
    assert found["python"] == platform.python_version()
    assert found["keras"] == keras.__version__
    assert found["numpy"] == np.__version__
    assert all(re.match(r"\d+\.\d+", version) for version in found.values())


def test_the_module_loads_no_framework():
    loaded = fresh("import sys, keras_cam_callbacks.versions; print({'keras', 'numpy', 'cv2'} & set(sys.modules))")
    assert loaded == "set()"
