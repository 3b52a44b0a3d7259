"""The ledger: how much of its budget each path used on fixed cases, as recorded."""
