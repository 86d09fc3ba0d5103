"""Rebuild a lost store from request and result files."""
