"""Submit batches, collect and settle their results, recover a lost store."""
