"""What a training teaches the network, one paradigm a file, by the name that a recipe has as `kind`."""

from typing import Annotated

from sbm_cli.training.objectives.adversarial import Adversarial
from sbm_cli.training.objectives.bridge import Bridge
from sbm_cli.training.objectives.flow import FlowMatching
from sbm_cli.training.objectives.objective import Objective
from sbm_cli.training.objectives.sbctm import SBCTM
from sbm_cli.training.objectives.ufogen import UFOGen

OBJECTIVES: dict[str, type[Objective]] = {
    "bridge": Bridge,
    "adversarial": Adversarial,
    "flow": FlowMatching,
    "sbctm": SBCTM,
    "ufogen": UFOGen,
}
AnyObjective = Annotated[Objective, OBJECTIVES]
