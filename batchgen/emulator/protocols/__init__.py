"""The handlers and line formats of each provider's batch protocol, for the service."""
