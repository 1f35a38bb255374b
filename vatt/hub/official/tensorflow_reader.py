"""A program of its own: the variables of a TensorFlow 2 checkpoint into an ``.npz``.

It is run by path, and imports nothing of this package: TensorFlow and PyTorch in one process can crash.

Usage:
    python tensorflow_reader.py PREFIX OUTPUT.npz
"""

from __future__ import annotations

import os
import sys

import numpy as np

VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"
NO_TENSORFLOW, UNREADABLE = 3, 4  # exit status


def main(prefix: str, output: str) -> int:
    """Write every variable as ``weight/<path>``; optimizer and counters, which nobody needs, as empty arrays."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    try:
        import tensorflow as tf
    except ImportError as error:
        print(error, file=sys.stderr)
        return NO_TENSORFLOW
    nothing = np.zeros(0, np.float32)
    found = {}
    try:
        reader = tf.train.load_checkpoint(prefix)
        for key in reader.get_variable_to_shape_map():
            name = key.removesuffix(VALUE)
            wanted = key.endswith(VALUE) and "/.OPTIMIZER_SLOT/" not in key and not key.startswith("optimizer/")
            found[f"weight/{name}"] = reader.get_tensor(key) if wanted else nothing
    except (tf.errors.OpError, ValueError) as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        return UNREADABLE
    np.savez(output, **found)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
