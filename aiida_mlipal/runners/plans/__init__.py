"""The programs of the plans of an exploration, one module each."""
