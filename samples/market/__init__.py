"""A made-up grocery market: catalogue, query log, conversions, and gold labels from known truth."""
