"""One process of `fits.py`: a fit with the callback or without, or epoch ends of one size; prints what it took as JSON.

python benchmarks/fit_worker.py fit '{"samples": 16, "tracker": "disk", "images": 512, "epochs": 10, "held": 16}'
"""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # Before TensorFlow is loaded.

import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from typing import Any

from measuring import offline_wandb, seconds

HOOKS = ("on_train_begin", "on_epoch_begin", "on_epoch_end", "on_train_end")


@contextmanager
def _mlflow(folder: Path) -> Iterator[None]:
    import mlflow

    mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
    mlflow.create_experiment("fits", (folder / "artifacts").as_uri())
    mlflow.set_experiment("fits")
    with mlflow.start_run():
        yield


@contextmanager
def _trackio(folder: Path) -> Iterator[None]:
    os.environ["TRACKIO_DIR"] = str(folder)
    import trackio

    trackio.init(project="fits", embed=False)
    yield
    trackio.finish()


# What a user starts before a fit, for the trackers that attach to a run.
RUNS: dict[str, Callable[[Path], Any]] = {"wandb": offline_wandb, "mlflow": _mlflow, "trackio": _trackio}


def peak() -> float:
    """The process' largest memory so far in MiB."""
    # Linux counts KiB, macOS bytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**10 if sys.platform == "linux" else 2**20)


def fit(samples: int | None, tracker: str | None, images: int, epochs: int, held: int) -> dict[str, Any]:
    """Trains the demo's network on real digits in front of photographs, 96 x 96.

    Args:
        samples: How many images `GradCAMLogger` explains; None for a fit without it.
        tracker: Name in TRACKERS, or None.
        images: How many images are trained on.
        epochs: How many epochs.
        held: How many images there are to explain, the same in all fits so that they take the same memory.

    Returns:
        "epochs": wall and CPU seconds from the start to the end of each epoch; "hooks": those that the callback's own
        methods took in sum, by method; "own": all of these to the end of each epoch; "traces"; "MiB"; "bytes" on disk.
    """
    import keras

    from keras_cam_callbacks import GradCAMLogger
    from keras_cam_callbacks.demo.data import make_scenes
    from keras_cam_callbacks.demo.training import build_convnet

    keras.utils.set_random_seed(0)
    training, validation = make_scenes(max(images, 5 * held))
    x, y = training.images[:images].astype("float32"), training.labels[:images]
    model = build_convnet()
    model.compile("adam", "sparse_categorical_crossentropy")
    keras.ops.convert_to_tensor(x[:1])  # wakes the framework
    ends: list[tuple[float, float]] = []
    own: list[list[float]] = []
    hooks = dict.fromkeys(HOOKS, (0.0, 0.0))
    traces = 0

    class Clock(keras.callbacks.Callback):  # type: ignore[misc]  # Keras has no types
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            ends.append((time.perf_counter() - began[0], time.process_time() - began[1]))
            own.append([sum(spent) for spent in zip(*hooks.values(), strict=True)])

    def timed(logger: Any, name: str) -> None:
        method = getattr(logger, name)

        def run(*args: Any, **kwargs: Any) -> None:
            nonlocal traces
            spent = seconds(lambda: method(*args, **kwargs))
            hooks[name] = (hooks[name][0] + spent[0], hooks[name][1] + spent[1])
            if name == "on_epoch_end":
                traces = logger._source.capturer.traces

        setattr(logger, name, run)

    with tempfile.TemporaryDirectory() as name, ExitStack() as runs:
        folder, callbacks = Path(name), []
        if samples is not None:
            data = validation.images[:samples].astype("float32"), validation.labels[:samples]
            logger = GradCAMLogger(data, max_samples=samples, tracker=tracker, log_dir=folder, on_error="raise")
            for hook in HOOKS:
                timed(logger, hook)
            callbacks = [logger]
        if tracker in RUNS:
            runs.enter_context(RUNS[tracker](folder))
        began = time.perf_counter(), time.process_time()
        model.fit(x, y, batch_size=32, epochs=epochs, verbose=0, callbacks=[*callbacks, Clock()])
        runs.close()
        kept = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return {"epochs": ends, "hooks": hooks, "own": own, "traces": traces, "MiB": peak(), "bytes": kept}


def epoch_ends(samples: int, side: int, rounds: int) -> dict[str, Any]:
    """Epoch ends of `GradCAMLogger` with the record on disk, next to bare passes, of MobileNetV2.

    Args:
        samples: How many images are explained, 32 at most at once.
        side: Height and width of the images.
        rounds: How often.
    """
    import keras
    import numpy as np
    from measuring import BARE, in_turn
    from subjects import MODELS, bare_pass, photographs, settle

    from keras_cam_callbacks import GradCAMLogger

    keras.utils.set_random_seed(0)
    model = MODELS["MobileNetV2"](input_shape=(side, side, 3))
    few = photographs((side, side, 3))
    settle(model, few)
    images = np.resize(few, (samples, side, side, 3))
    passes = [bare_pass(model, images[start : start + 32]) for start in range(0, samples, 32)]
    with tempfile.TemporaryDirectory() as folder:
        logger = GradCAMLogger(images, max_samples=samples, tracker="disk", log_dir=folder, on_error="raise")
        logger.set_model(model)
        logger.on_train_begin({})
        epochs = count()
        cases = {
            BARE: lambda: [run() for run in passes],
            "epoch end": lambda: logger.on_epoch_end(next(epochs), {}),
        }
        return {"times": in_turn(cases, rounds), "MiB": peak()}


def main(name: str, arguments: str) -> None:
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # What libraries print is no answer.
    print(json.dumps({"fit": fit, "epoch_ends": epoch_ends}[name](**json.loads(arguments))), file=answers, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
