"""Lightning modules and callbacks: from an objective to a trained, exported model."""
