"""What a training teaches the network, one paradigm a file; a recipe names one by `kind`, as it does a schedule."""

from sbm_cli.training.objectives.bridge import Bridge

AnyObjective = Bridge  # | the next one
