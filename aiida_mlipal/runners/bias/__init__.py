"""Energies that are added to that of a model, to drive dynamics out of their basin."""
