"""From arrays to tensors and back."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import torch


def as_tensor(array: Any) -> Any:
    """Returns an array as a tensor on Keras' device; texts as they are."""
    if isinstance(array, np.ndarray) and array.dtype.kind in "USO":
        return array
    if isinstance(array, np.ndarray) and not array.flags.writeable:
        array = array.copy()  # PyTorch warns of others, as it can't have tensors that are read-only.
    return keras.ops.convert_to_tensor(array)


def as_arrays(results: Any) -> Any:
    """Returns tensors in any structure as numpy arrays that are read-only, without a copy where they are on the CPU."""
    return keras.tree.map_structure(_as_array, results)


def _as_array(tensor: Any) -> Any:
    tensor = tensor.detach().cpu()
    array = (tensor.to(torch.float32) if tensor.dtype == torch.bfloat16 else tensor).numpy()
    array = array.view()
    array.flags.writeable = False
    return array


def same_bits(one: Any, other: Any) -> bool:
    """Tells whether two tensors are the same to the last bit, NaN and the sign of zero included."""
    if one.shape != other.shape or one.dtype != other.dtype or one.device != other.device:
        return False
    one, other = (tensor.detach().contiguous().reshape(-1).view(torch.uint8) for tensor in (one, other))
    if one.device.type == "cpu":
        words = len(one) // 8 * 8
        arrays = [tensor.numpy() for tensor in (one, other)]
        if len({array.ctypes.data % 8 for array in arrays}) == 1 and not arrays[0].ctypes.data % 8:
            heads = [array[:words].view(np.int64) for array in arrays]
            return np.array_equal(*heads) and np.array_equal(*(array[words:] for array in arrays))
        return bool(np.array_equal(*arrays))
    return bool(torch.equal(one, other))


def address(tensor: Any) -> int:
    """Returns where a tensor's memory begins."""
    return int(tensor.untyped_storage().data_ptr())
