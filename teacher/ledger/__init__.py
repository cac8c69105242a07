"""The ledger: an SQLite file with every call and the row of every query, and the group commit that writes it."""
