"""Remote batches are polled and their result files downloaded."""
