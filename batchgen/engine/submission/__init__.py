"""Turn ready conversations into request files and remote batches."""
