"""Calcfunctions: thin, in small stable modules, because AiiDA hashes the source file with the inputs."""
