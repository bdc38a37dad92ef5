"""Seeds every generator of random numbers that tests draw from."""

import keras
from keras.src.backend.common import global_state


def set_seeds(seed):
    """As Keras does from version 3.13 on; before, its own global generator went on from where it was."""
    keras.utils.set_random_seed(seed)
    global_state.set_global_attribute("global_seed_generator", None)
