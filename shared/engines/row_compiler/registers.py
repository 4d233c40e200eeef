"""Which of a processor's registers code may use: after the longest vectors everything else is slower for a while."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Registers:
    """``count`` registers for vectors, of ``bits`` each."""

    count: int
    bits: int

    @property
    def sums_at_once(self) -> int:
        """How many sums, each of sixteen rows in float32, fill half of them: the rest is for operands."""
        return self.count * self.bits // (2 * 16 * 32)
