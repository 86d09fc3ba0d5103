"""Backends that write the texts of the local service, and the threads that call them."""
