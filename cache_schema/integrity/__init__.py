"""Every byte against the ledger; what is damaged is set aside."""
