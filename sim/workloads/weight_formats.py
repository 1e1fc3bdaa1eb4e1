"""How a model's weights are stored: 2 bytes a parameter, or quantised, with what their scales take."""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction
from typing import Literal, NamedTuple

from sim.inputs.config import Config
from sim.inputs.faults import Fault, FaultsError
from sim.inputs.units import Number

WeightType = Literal["bf16", "fp16", "fp8", "int8", "int4"]


class WeightFormat(NamedTuple):
    """Bits of a parameter, and of the scales of a matrix: per matrix, per output, per `group` inputs of an output."""

    bits: int
    matrix_bits: int = 0
    output_bits: int = 0
    group_bits: int = 0
    group: int = 1


FORMATS: dict[WeightType, WeightFormat] = {
    "bf16": WeightFormat(16),
    "fp16": WeightFormat(16),
    # one fp32 scale a matrix: vLLM, online quantisation, scheme fp8_per_tensor
    "fp8": WeightFormat(8, matrix_bits=32),
    # one fp32 scale an output: compressed-tensors, strategy "channel"
    "int8": WeightFormat(8, output_bits=32),
    # a 16-bit scale and a 4-bit zero point for 128 inputs of an output: AWQ and GPTQ, group_size 128
    "int4": WeightFormat(4, group_bits=20, group=128),
}


class Weights(Config, frozen=True):
    """`dtype`, or bytes of a parameter of a projection's matrix with its scales (0.56: blocks of 32 of 4 bits).

    Matrices of projections are stored so. Biases, norms and tables keep 2 bytes, and kernels compute in bf16.
    """

    dtype: WeightType | None = None
    bytes_per_parameter: Number | None = None

    def __post_init__(self) -> None:
        if faults := list(self._wrong()):
            raise FaultsError(faults)

    def _wrong(self) -> Iterator[Fault]:
        size = self.bytes_per_parameter
        if (self.dtype is None) == (size is None):
            yield Fault("", "expected exactly one of dtype and bytes_per_parameter")
        if size is not None and not 0.1 <= size <= 4:
            yield Fault("bytes_per_parameter", f"is {float(size):g}, expected 0.1 to 4")

    @property
    def computable(self) -> bool:
        """Whether matrices have 2 bytes a parameter, as kernels that really compute read them."""
        return self.dtype is not None and FORMATS[self.dtype].bits == 16

    def matrix_bytes(self, outputs: int, inputs: int) -> int:
        """Bytes of a matrix [outputs, inputs] with its scales, an even number."""
        if self.bytes_per_parameter is not None:
            size = math.ceil(Fraction(str(float(self.bytes_per_parameter))) * outputs * inputs)
        else:
            assert self.dtype is not None
            form = FORMATS[self.dtype]
            groups = -(-inputs // form.group)
            bits = form.bits * outputs * inputs + form.matrix_bits
            bits += outputs * (form.output_bits + groups * form.group_bits)
            size = -(-bits // 8)
        return size + size % 2


AS_COMPUTED = Weights(dtype="bf16")
"""Weights as kernels compute with them."""
