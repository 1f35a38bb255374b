"""The official TensorFlow 2 VATT: its checkpoints, read into models of this package."""
