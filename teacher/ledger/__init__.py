"""The record of every attempt to label a query: SQLite file, records, group commit."""
