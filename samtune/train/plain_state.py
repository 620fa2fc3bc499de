"""What may be in a checkpoint: tensors, numbers and text, nested. No other object is pickled."""

from __future__ import annotations

from collections import Counter, OrderedDict
from typing import Any

import torch
from torch import Tensor

from samtune.sam.shards import is_sharded

# What `torch.load` takes with weights_only. Of a subclass (a namedtuple, a defaultdict, an IntEnum) it would refuse the
# whole checkpoint, and the trial would begin again.
_PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device)
_NESTED = (list, tuple, set, torch.Size)
_MAPPINGS = (dict, OrderedDict, Counter)


def why_not_saved(value: Any, where: str) -> str | None:
    """What a checkpoint cannot hold of a value, in one line; None: it can hold all of it.

    Args:
        where: what messages call the value.
    """
    kind_of = type(value)
    if kind_of in _MAPPINGS:
        keys = [(key, f"a key of {where}") for key in value]
        inner = [*keys, *((item, f"{where}.{key}") for key, item in value.items())]
    elif kind_of in _NESTED:
        inner = [(item, f"{where}.{index}") for index, item in enumerate(value)]
    elif is_sharded(value):
        return f"{where} cannot be saved: it is of a part of the weights (DTensor), which this worker alone has"
    elif isinstance(value, Tensor) or kind_of in _PLAIN:
        return None
    else:
        kind = f"{kind_of.__module__}.{kind_of.__qualname__}"
        return f"{where} cannot be saved: it must be made of tensors, numbers and text (got {kind})"
    return next((problem for item, place in inner if (problem := why_not_saved(item, place))), None)
