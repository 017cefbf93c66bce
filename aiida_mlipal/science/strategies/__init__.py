"""Which candidates are labelled: strategies, each a small exact function, and quotas on what they may take."""
