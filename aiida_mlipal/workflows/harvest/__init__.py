"""Turn finished calculations of the profile into labelled datasets, one per level of theory.

``sources`` says what a finished calculation offers and finds them; one module per code reads them (``pw``); ``levels``
sorts them by level of theory; ``driver`` makes the nodes. No process runs: the driver calls calcfunctions, whose inputs
are the outputs of the calculations, so that the graph has no gap.
"""
