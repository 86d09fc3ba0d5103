"""A lost store is built again from request and result files."""
