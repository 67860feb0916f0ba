"""The backbones by the name that a model's configuration has as `kind`: one file each."""

from typing import Annotated

from sbm_cli.nn.backbones.ospatialnet import OSpatialNetConfig
from sbm_cli.nn.network import NetworkConfig

BACKBONES: dict[str, type[NetworkConfig]] = {"ospatialnet": OSpatialNetConfig}
Backbone = Annotated[NetworkConfig, BACKBONES]
