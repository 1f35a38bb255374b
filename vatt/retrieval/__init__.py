"""From a trained model to answers: embeddings, index, search."""
