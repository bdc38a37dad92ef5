"""What every tracker and every method must do, as classes of tests that other packages inherit; needs pytest to run.

A test file of another package::

    from keras_cam_callbacks.testing import MethodContract, TrackerContract

    class TestMyTracker(TrackerContract):
        def make(self):
            return MyTracker()

        def read(self, tracker, config, run):
            return [{"step": row.step, "scalars": row.numbers} for row in what_my_tracker_has_stored()]

    class TestMyMethod(MethodContract):
        def make(self):
            return my_method

Nothing in the package imports this, and this imports no test library.
"""

from .methods import MethodContract
from .records import make_config, make_record
from .trackers import TrackerContract

__all__ = ["MethodContract", "TrackerContract", "make_config", "make_record"]
