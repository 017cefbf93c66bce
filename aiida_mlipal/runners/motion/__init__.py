"""Molecular dynamics of many replicas at once: what moves them, and when they end."""
