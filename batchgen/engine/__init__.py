"""The run: submit, collect, settle, recover."""
