"""One of two processes that train a model together by DistributedDataParallel; run as a script, once for each.

The training loop is that of Keras' guide on several GPUs with PyTorch, on CPUs. What happened it writes as JSON.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import keras
import numpy as np
import torch
from fits import X, Y, random_model
from torch.nn.parallel import DistributedDataParallel

from keras_cam_callbacks import ActivationLogger, FilterLogger, GradCAMLogger, explain, read_run
from keras_cam_callbacks.network.weights import values_of

EPOCHS = 3


def train(rows, *callbacks):
    """Trains a new model on these rows of the data, and on the other process' too; returns it and what was logged."""
    model = random_model()
    wrapped = DistributedDataParallel(model)
    optimizer = torch.optim.SGD(wrapped.parameters(), lr=0.1)
    x, y = torch.as_tensor(X[rows]), torch.as_tensor(Y[rows].astype(np.int64))
    logged = []
    looks = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: logged.append(sorted(logs)))
    hooks = keras.callbacks.CallbackList([*callbacks, looks], model=wrapped.module, epochs=EPOCHS)
    hooks.on_train_begin()
    for epoch in range(EPOCHS):
        hooks.on_epoch_begin(epoch)
        optimizer.zero_grad()
        loss = torch.nn.functional.nll_loss(torch.log(wrapped(x)), y)
        loss.backward()
        optimizer.step()
        hooks.on_epoch_end(epoch, {"lr": 0.1})
    hooks.on_train_end()
    return wrapped, logged


def state(wrapped):
    """All that training changes in the model, bit by bit."""
    return [values_of(variable).tobytes() for variable in wrapped.module.variables]


def refused(model):
    """What `explain` says to a model that is wrapped."""
    try:
        explain(model, X)
    except TypeError as error:
        return str(error)
    return None


def main(folder, index, address):
    torch.distributed.init_process_group("gloo", init_method=address, rank=index, world_size=2)
    rows, read = slice(index, None, 2), []

    def data():
        read.append(1)
        yield X, Y

    loggers = [
        GradCAMLogger(data(), tracker=["disk", "tensorboard"], log_dir=folder / "logs", on_error="raise"),
        ActivationLogger(data(), tracker=None, on_error="raise"),
        FilterLogger("conv2", filters=2, steps=2, tracker=None, on_error="raise"),
    ]
    expected, _ = train(rows)
    wrapped, logged = train(rows, *loggers)
    result = {
        "logged": logged,
        "read": len(read),
        "directory": str(loggers[0].directory),
        "same_state": state(wrapped) == state(expected),
        "kernel": wrapped.module.get_weights()[0].tobytes().hex(),
        "refused": refused(wrapped),
    }
    if index == 0:
        plain = random_model()
        plain.set_weights(wrapped.module.get_weights())
        maps = read_run(loggers[0].directory).epochs[-1].heatmaps()
        explained = [explain(model, X).heatmaps for model in (wrapped.module, plain)]
        result["same_maps"] = bool(np.any(maps)) and all(np.array_equal(maps, other) for other in explained)
    (folder / f"{index}.json").write_text(json.dumps(result))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
