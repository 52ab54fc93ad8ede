"""The models by their kind: EoMT, and each step of the paper from Mask2Former down to it (section 3, table 1).

All have one contract, so that nothing else asks which one it holds: pixels and the probabilities of masked
attention in, the query logits of every supervised layer out; a backbone and a class head under the same names.
"""

from eomt.config import ModelConfig
from eomt.models.eomt import EoMT
from eomt.models.mask2former import Mask2Former

__all__ = ["Model", "build"]

Model = EoMT | Mask2Former
"""A model of any kind."""


def build(config: ModelConfig, num_classes: int) -> Model:
    """Make the model that a configuration describes. Raises ConfigError for one that cannot be."""
    return EoMT(config, num_classes) if config.kind == "eomt" else Mask2Former(config, num_classes)
