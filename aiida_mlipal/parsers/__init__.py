"""One parser per CalcJob: they read what the runner wrote, and never unpickle a model."""
