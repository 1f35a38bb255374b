"""Checkpoints of other projects (the official VATT, V-JEPA, V-JEPA 2, VideoMAE), converted to models of vatt."""
