"""The local batch service, driven by the official SDKs over real HTTP."""
