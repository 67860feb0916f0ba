"""The backbones, one file each, by the `kind` in a model's configuration."""

from typing import Annotated

from sbm_cli.nn.backbones.ncsnpp import NCSNppConfig
from sbm_cli.nn.backbones.ospatialnet import OSpatialNetConfig
from sbm_cli.nn.network import NetworkConfig

BACKBONES: dict[str, type[NetworkConfig]] = {"ospatialnet": OSpatialNetConfig, "ncsnpp": NCSNppConfig}
Backbone = Annotated[NetworkConfig, BACKBONES]
