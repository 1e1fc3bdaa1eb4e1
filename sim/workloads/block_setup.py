"""How a model runs, and what one of its blocks is then."""

from __future__ import annotations

from typing import Literal, NamedTuple, assert_never

from sim.workloads.model_shapes import Model
from sim.workloads.weight_formats import AS_COMPUTED, Weights
from sim.workloads.workload import Layer

Parallelism = Literal["ulysses", "tensor"]


class Setup(NamedTuple):
    """How a model runs. `tokens` are those of one image or video, `local` those of them on a rank."""

    model: Model
    parallelism: Parallelism
    world_size: int
    batch: int
    tokens: int
    text: int
    cross_attention: int
    weights: Weights = AS_COMPUTED

    @property
    def ulysses(self) -> bool:
        """Whether tokens are divided and attention exchanges them for heads."""
        return self.parallelism == "ulysses" and self.world_size > 1

    @property
    def shards(self) -> int:
        """Parts into which weights are cut."""
        match self.parallelism:
            case "tensor":
                return self.world_size
            case "ulysses":
                return 1
            case _:
                assert_never(self.parallelism)

    @property
    def local(self) -> int:
        """Image tokens on a rank; Ulysses pads the last rank's."""
        match self.parallelism:
            case "ulysses":
                return -(-self.tokens // self.world_size)
            case "tensor":
                return self.tokens
            case _:
                assert_never(self.parallelism)


class Block(NamedTuple):
    """A layer, and the elements that one sample of it needs: of activations, and of kernels for themselves."""

    layer: Layer
    activations: int
    scratch: int
