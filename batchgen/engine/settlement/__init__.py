"""Result lines become accepted texts, failures and money in the ledger."""
