"""Arrays that stay where they are, such as those of h5py and zarr in files: read only where rows are needed."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


class StoredArray:
    """An array (N, ...) that is read row by row, and for which numpy's attributes are known without reading.

    Attributes:
        shape: Its shape.
        dtype: Its number type; bfloat16 and its like are float32 once they are read.
        ndim: The number of its axes.
    """

    def __init__(self, stored: Any) -> None:
        self._stored = stored
        self.shape = tuple(stored.shape)
        self.dtype = np.dtype(stored.dtype)
        self.ndim = len(self.shape)

    def __len__(self) -> int:
        return int(self.shape[0])

    @property
    def size(self) -> int:
        """The number of its values."""
        return int(np.prod(self.shape))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        return np.asarray(self.rows(np.arange(len(self))), dtype)

    def rows(self, rows: npt.NDArray[np.intp]) -> npt.NDArray[Any]:
        """Reads rows, in their order; those that stand side by side at once."""
        if not len(rows):
            return as_numbers(np.asarray(self._stored[0:0]))
        starts = np.flatnonzero(np.diff(rows, prepend=rows[0] - 2) != 1)
        runs = zip(rows[starts], rows[[*(starts[1:] - 1), -1]] + 1, strict=True)
        return as_numbers(np.concatenate([np.asarray(self._stored[int(a) : int(b)]) for a, b in runs]))


def is_stored(data: Any) -> bool:
    """Tells whether data is an array that need not be in memory: one that can be cut by rows, and is not numpy's."""
    in_memory = "numpy", "iloc", "__jax_array__", "addressable_shards"  # of tensors, data frames and JAX's arrays
    if isinstance(data, (np.ndarray, np.generic, type)) or any(hasattr(data, name) for name in in_memory):
        return False
    if not all(hasattr(data, name) for name in ("shape", "dtype", "__getitem__", "__len__")):
        return False
    try:
        return len(data.shape) > 0 and np.dtype(data.dtype).kind in "biufV"
    except TypeError:  # Types that numpy lacks.
        return False


def taken(array: Any, rows: npt.NDArray[np.intp]) -> npt.NDArray[Any]:
    """Returns rows of an array of numpy's, or of a stored one."""
    result: npt.NDArray[Any] = array.rows(rows) if isinstance(array, StoredArray) else array[rows]
    return result


def on_host(leaf: Any) -> npt.NDArray[Any]:
    """Returns an array or a tensor as numpy's, wherever it lies; one of PyTorch's without its gradient.

    bfloat16 and its like, which numpy lacks, are float32.
    """
    if hasattr(leaf, "detach"):  # PyTorch's.
        leaf = leaf.detach().cpu()
        leaf = leaf.float() if str(leaf.dtype) == "torch.bfloat16" else leaf
    return as_numbers(np.asarray(leaf.numpy() if hasattr(leaf, "numpy") else leaf))


def as_numbers(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Returns bfloat16 and its like, which numpy lacks, as float32."""
    return array.astype(np.float32) if array.dtype.kind == "V" and array.dtype.names is None else array
