"""Batch tensors to features: tokenizers, transformers, backbone, heads and the whole model."""
