"""Ready conversations become request files and remote batches."""
