"""Plain functions over numpy, scipy and ase. Never imports AiiDA, torch or MACE."""
