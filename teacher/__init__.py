"""Second floor: catalogue → retrieval → evidence → labels → guardrails → ledger → curriculum."""
