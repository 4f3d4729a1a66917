"""The arithmetic world: an operator changes its meaning.

Pre-training teaches, modulo 11, the sum by three names, the maximum, and `@`, which stands for the difference. In the
learning task `@` stands for the sum; it is shown for some pairs of operands and tested on others. What is known
of `@` conflicts, what is known of sums is needed, the maximum does neither. The never-knew twin has not met `@`.

That the sum has several names matters: a model learns then that a name can stand for an operation that it has. With one
name for each operation neither model carried the new meaning over to other operands.
"""

from graceful_forgetting.worlds.arithmetic.world import ARITHMETIC

__all__ = ["ARITHMETIC"]
