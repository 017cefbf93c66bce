"""CalcJobs and calcfunctions: thin, no physics here."""
