"""The handlers and line formats of each provider's batch protocol, from the service's side."""
