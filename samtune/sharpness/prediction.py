"""How well a measure predicts which of two networks generalizes better: figure 3 (right) of the SAM paper.

The information of Jiang et al. 2020 ("Fantastic Generalization Measures and Where to Find Them", section 2.2.3), which
the PGDL competition (Jiang et al. 2020, arXiv 2012.07976) takes as its score: 100 times `least_order_information`,
averaged over its tasks.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from samtune.errors import UsageError


@dataclass(frozen=True, slots=True)
class OrderInformation:
    """What the order of two networks by a measure says about their order by the gap."""

    bits: float
    """I(V_μ; V_g | U_S), 0 to `entropy`. NaN where every pair ties."""
    entropy: float
    """H(V_g | U_S), at most 1 bit: what there is to say. 0 where the hyperparameters alone say it all."""
    num_pairs: int
    """Ordered pairs of different networks that tie in neither."""

    @property
    def normalized(self) -> float:
        """Share of the entropy that the measure tells, 0 to 1; NaN where there is none."""
        return self.bits / self.entropy if self.entropy > 0 else math.nan


def order_information(measure: Tensor, gap: Tensor, given: Sequence[Sequence[Hashable]] = ()) -> OrderInformation:
    """I(V_μ; V_g | U_S) over the pairs of different networks, each in both orders.

    V_φ is the sign of φ(a) - φ(b) for networks a and b. U_S are the values that the hyperparameters S have in a and in
    b, as in the competition's scoring program. Probabilities are the shares of the pairs, so that a value of U_S counts
    by its pairs:

        I(V_μ; V_g | U_S) = Σ_u p(u) Σ p(V_μ, V_g | u) log2[p(V_μ, V_g | u) / (p(V_μ | u) p(V_g | u))]

    Pairs that tie in the measure or the gap are left out. (The scoring program counts them and each network with
    itself as "not larger", and every u alike.) Estimated by shares, so it is too large where a u has few pairs.

    Args:
        measure, gap: [n], of the same networks. Only their order matters.
        given: of each hyperparameter in S its n values.

    Raises:
        UsageError: the lengths differ, or a value is not finite.
    """
    _check(measure, gap, given)
    signs = [torch.sign(values[:, None] - values[None, :]).flatten() for values in (measure, gap)]
    untied = (signs[0] != 0) & (signs[1] != 0)
    num_pairs = int(untied.sum())
    if num_pairs == 0:
        return OrderInformation(math.nan, math.nan, 0)
    cells, num_cells = _cells(given, len(measure))
    upper = [(sign > 0).long() for sign in signs]
    index = (cells.flatten() * 4 + upper[0].cpu() * 2 + upper[1].cpu())[untied.cpu()]
    joint = torch.bincount(index, minlength=4 * num_cells).to(torch.float64).view(num_cells, 2, 2) / num_pairs
    whole, of_measure, of_gap = joint.sum((1, 2)), joint.sum(2), joint.sum(1)  # p(u), p(V_μ, u), p(V_g, u)
    entropy = _entropy(of_gap) - _entropy(whole)
    bits = entropy + _entropy(of_measure) - _entropy(joint)
    return OrderInformation(max(bits, 0.0), max(entropy, 0.0), num_pairs)


def least_order_information(
    measure: Tensor, gap: Tensor, hyperparameters: Mapping[str, Sequence[Hashable]], *, max_given: int = 2
) -> tuple[float, tuple[str, ...]]:
    """The least normalized information over all sets S of at most `max_given` hyperparameters, and that set.

    It is high only where the measure tells more about the gap than any of these hyperparameters do. Sets that leave
    nothing to tell are passed over.

    Args:
        hyperparameters: by name, of each network its value. Few values that many networks share; see
            `order_information`.

    Returns:
        0 to 1 and the names in S; NaN and no name where every pair ties.

    Raises:
        UsageError: the lengths differ, or a value is not finite.
    """
    best, chosen = math.nan, tuple[str, ...]()
    for size in range(max_given + 1):
        for names in combinations(hyperparameters, size):
            found = order_information(measure, gap, [hyperparameters[name] for name in names]).normalized
            if math.isfinite(found) and not found >= best:
                best, chosen = found, names
    return best, chosen


def _cells(given: Sequence[Sequence[Hashable]], n: int) -> tuple[Tensor, int]:
    """[n, n]: the number of each pair's U_S, and how many there are."""
    tuples = list(zip(*given, strict=True)) if given else [()] * n
    numbers = {values: number for number, values in enumerate(dict.fromkeys(tuples))}
    own = torch.tensor([numbers[values] for values in tuples])
    return own[:, None] * len(numbers) + own[None, :], len(numbers) ** 2


def _entropy(shares: Tensor) -> float:
    """In bits."""
    return float(-torch.special.xlogy(shares, shares).sum() / math.log(2))


def _check(measure: Tensor, gap: Tensor, given: Sequence[Sequence[Hashable]]) -> None:
    lengths = [len(measure), len(gap), *(len(values) for values in given)]
    if measure.ndim != 1 or gap.ndim != 1 or len(set(lengths)) > 1:
        raise UsageError(f"measure, gap and each hyperparameter need one value per network (got {lengths} values)")
    for name, values in (("measure", measure), ("gap", gap)):
        if not torch.isfinite(values).all():
            raise UsageError(f"{name} must be finite (got {values[~torch.isfinite(values)][0].item()})")
