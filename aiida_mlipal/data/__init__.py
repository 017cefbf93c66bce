"""AiiDA Data nodes: thin, typed, queryable wrappers around the objects of :mod:`aiida_mlipal.science`."""
