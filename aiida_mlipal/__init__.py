"""Active-learning campaigns for machine-learned interatomic potentials, with full provenance."""

__version__ = '0.1.0'
