import enum
import inspect
import re
import sys
import warnings
from fractions import Fraction

import numpy as np
import pytest
from interpreter import fresh

from keras_cam_callbacks.checks import (
    check,
    check_choice,
    check_positive,
    check_whole,
    close_names,
    did_you_mean,
    is_real,
    is_seconds,
    is_whole,
    renamed,
)


@pytest.mark.parametrize("value", [0, -3, 10**30, np.int64(2), np.uint8(7)])
def test_whole_numbers(value):
    assert is_whole(value)
    assert is_whole(value, least=value, most=value)
    assert not is_whole(value, least=int(value) + 1)
    assert not is_whole(value, most=int(value) - 1)


@pytest.mark.parametrize("value", [True, np.True_, 2.0, "2", None, [2], np.array([2]), Fraction(1, 2)])
def test_no_whole_numbers(value):
    assert not is_whole(value)


@pytest.mark.parametrize("value", [0, 0.5, -1e300, np.float32(0.25), np.int64(2), Fraction(1, 3)])
def test_real_numbers(value):
    assert is_real(value)
    assert is_real(value, least=float(value), most=float(value))
    assert not is_real(value, least=np.nextafter(float(value), np.inf))
    assert not is_real(value, most=np.nextafter(float(value), -np.inf))


@pytest.mark.parametrize(
    "value", [False, np.False_, np.nan, np.inf, -np.inf, np.float32(np.nan), 1j, "1", None, [1.0], 10**400]
)
def test_no_real_numbers(value):
    assert not is_real(value)


def test_check_says_what_must_hold_what_came_and_what_works():
    check("alpha", 0.5, True, "a number in [0, 1]", "0.5")
    with pytest.raises(ValueError, match=r"^`alpha` must be a number in \[0, 1\]\. Received: alpha=2\. alpha=0\.5 w"):
        check("alpha", 2, False, "a number in [0, 1]", "0.5")


def test_check_whole():
    check_whole("steps", 1, 1, 40)
    check_whole("steps", np.int32(5), 1, 40, most=5)
    for wrong in (0, True, 1.0, "1", None):
        with pytest.raises(
            ValueError, match=r"^`steps` must be a whole number of at least 1\. Received: steps=.*=40 wo"
        ):
            check_whole("steps", wrong, 1, 40)
    with pytest.raises(ValueError, match=r"^`side` must be a whole number from 16 to 64\. Received: side=65\. side=32"):
        check_whole("side", 65, 16, 32, most=64)


def test_check_positive():
    check_positive("freq", 1)
    check_positive("freq", np.int64(3))
    for wrong in (0, -1, False, 1.5, "2", None):
        with pytest.raises(ValueError, match=r"^`freq` must be a positive integer\. Received: "):
            check_positive("freq", wrong)


def test_check_choice_proposes_what_is_close():
    check_choice("colormap", "turbo", ("turbo", "viridis"))
    text = "`colormap` must be one of turbo, viridis. Received: colormap='virids'. Did you mean 'viridis'?"
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        check_choice("colormap", "virids", ("turbo", "viridis"))
    with pytest.raises(ValueError, match=r"Received: colormap=3\.$"):
        check_choice("colormap", 3, ("turbo", "viridis"))
    with pytest.raises(ValueError, match=r"colormap=\[\]\.$"):
        check_choice("colormap", [], ("turbo", "viridis"))


def test_check_choice_of_values_that_are_no_texts():
    check_choice("guided", True, (False, True))
    for wrong in (1, 0, np.ones(2)):  # 1 == True
        with pytest.raises(ValueError, match=r"^`guided` must be one of False, True\. Received: guided="):
            check_choice("guided", wrong, (False, True))


@pytest.mark.parametrize(
    ("value", "close"),
    [
        ("gradcamm", ["gradcam", "layercam"]),
        ("GRADCAM", ["gradcam", "layercam"]),
        ("Sample_1", ["Sample_10", "sample_2"]),
        ("zzz", []),
        (3, []),
    ],
)
def test_close_names(value, close):
    assert close_names(value, ["Sample_10", "sample_2", "layercam", "gradcam"]) == close
    assert close_names(value, ["Sample_10", "sample_2", "layercam", "gradcam"], most=1) == close[:1]


def test_did_you_mean():
    names = {"conv1": "base/conv1", "base/conv1": "base/conv1"}
    assert did_you_mean("conv", ["conv1"]) == " Did you mean 'conv1'?"
    assert did_you_mean("zzz", names) == ""
    # What is proposed twice is written once.
    assert did_you_mean("base/conv1", names, names.__getitem__) == " Did you mean 'base/conv1'?"
    assert did_you_mean("conv1", ["conv1", "conv2"]) == " Did you mean 'conv1' or 'conv2'?"


@renamed(layer_name="layer", freq="every")
def explain(model, layer=None, *, every=1):
    """Explains."""
    return model, layer, every


def test_an_old_name_of_an_option_works_and_warns_where_it_is_written():
    with pytest.warns(
        DeprecationWarning, match="^`layer_name` is now called `layer`. The old name works until"
    ) as seen:
        assert explain("m", layer_name="conv") == ("m", "conv", 1)
    assert [warning.filename for warning in seen] == [__file__]
    with pytest.warns(DeprecationWarning, match="is now called `(layer|every)`") as seen:
        assert explain("m", layer_name="conv", freq=2) == ("m", "conv", 2)
    assert len(seen) == 2


def test_an_old_name_of_a_function_works_and_warns_where_it_is_called():
    show_where = renamed("explain")(explain)
    message = "^This function is now called `explain`. The old name works until version 1.0"
    with pytest.warns(DeprecationWarning, match=message) as seen:
        assert show_where("m", layer="conv") == ("m", "conv", 1)
    assert [warning.filename for warning in seen] == [__file__]
    assert show_where.__doc__ == "Explains."


def test_new_names_do_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert explain("m", "conv", every=3) == ("m", "conv", 3)
        assert explain("m", layer="conv") == ("m", "conv", 1)


def test_an_option_by_both_names_is_refused():
    with pytest.raises(TypeError, match=r"^`layer` must be written once\. Received: layer='a' and, by its old name, "):
        explain("m", layer="a", layer_name="b")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        with pytest.raises(TypeError, match="multiple values for argument 'layer'"):
            explain("m", "a", layer_name="b")


def test_signature_and_documentation_are_those_of_the_function():
    assert list(inspect.signature(explain).parameters) == ["model", "layer", "every"]
    assert explain.__doc__ == "Explains."


def test_a_class_within_the_package_that_hands_options_on_is_not_what_a_warning_points_at():
    # As a logger in the package hands its settings to its base class.
    namespace = {"__name__": "keras_cam_callbacks.somewhere", "explain": explain}
    exec("def outer(**settings): return explain('m', **settings)", namespace)
    with pytest.warns(DeprecationWarning, match="`layer_name` is now called `layer`") as seen:
        namespace["outer"](layer_name="conv")
    assert [(warning.filename, warning.lineno) for warning in seen] == [(__file__, sys._getframe().f_lineno - 1)]


def test_the_module_loads_the_standard_library_alone():
    code = "import sys, keras_cam_callbacks.checks; print({'keras', 'cv2', 'tensorflow'} & set(sys.modules))"
    assert fresh(code) == "set()"


class Kind(str, enum.Enum):
    JPG = "jpg"


@pytest.mark.parametrize("value", ["jpg", np.str_("jpg"), Kind.JPG])
def test_choices_of_other_kinds_of_text(value):
    check_choice("image_format", value, ["jpg", "png"])


def test_true_is_no_choice_of_1():
    check_choice("count", np.int64(1), [1, 2])
    with pytest.raises(ValueError, match="Received: count=True"):
        check_choice("count", True, [1, 2])
    with pytest.raises(ValueError, match="Received: flag=1"):
        check_choice("flag", 1, [True, "outputs"])


def test_arrays_without_axes_are_numbers():
    assert is_real(np.array(0.5))
    assert is_whole(np.array(3), 1)
    assert not is_whole(np.array(0.5))
    assert not is_real(np.array([0.5]))
    assert not is_real(np.array(True))


@pytest.mark.parametrize("value", [0, -1, "60", True, None, float("nan"), 1e300])
def test_what_is_no_time_to_wait(value):
    assert not is_seconds(value)
    assert is_seconds(0.1)
