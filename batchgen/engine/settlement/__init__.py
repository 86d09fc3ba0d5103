"""Turn result lines into accepted texts, failures and costs in the ledger."""
