"""Programs that run on the compute node. They never import AiiDA."""
