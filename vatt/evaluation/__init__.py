"""Numbers and pictures from logs and stored embeddings; never from a model."""
