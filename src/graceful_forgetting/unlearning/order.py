"""Which samples an unlearning update takes."""

import torch


def batch_indices(update: int, batch_size: int, num_samples: int, seed: int) -> list[int]:
    """Indices of the samples of the `update`-th unlearning update (from 0), `batch_size` of them.

    The samples are visited in a new random order each time all of them have been used, without regard to where
    batches end, so that every sample is used equally often. The result depends on the arguments alone: a resumed run
    continues the order without any state.
    """
    indices: list[int] = []
    position = update * batch_size
    while len(indices) < batch_size:
        epoch, offset = divmod(position + len(indices), num_samples)
        generator = torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**63)
        order = torch.randperm(num_samples, generator=generator).tolist()
        indices += order[offset : offset + batch_size - len(indices)]
    return indices
