"""WorkChains: they submit, decide nothing and create nothing; see ``calculations`` for what makes nodes."""
