"""The teacher: catalogue → retrieval → evidence → labels → guardrails → ledger → curriculum."""
