"""Poll remote batches and download their result files."""
