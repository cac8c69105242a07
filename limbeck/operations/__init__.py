"""What the operating commands do: label a file with a bundle, show the ledger, print result tables."""
