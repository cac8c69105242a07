"""Work of single commands: label a file with a bundle, show the ledger, print result tables."""
