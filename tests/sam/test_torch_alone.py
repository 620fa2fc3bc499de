"""`samtune.sam` and `samtune.sharpness` need nothing but torch: used where nothing else can be imported."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path

import samtune.sam

BLOCKED = """
import sys

ALLOWED = set(sys.stdlib_module_names) | set({allowed!r})
OURS = ("samtune", "samtune.lazy", "samtune.sam", "samtune.sharpness", "samtune.errors")

def is_there(name):
    first = name.partition(".")[0]
    if first == "samtune":
        return name in OURS or name.startswith(("samtune.sam.", "samtune.sharpness."))
    return first in ALLOWED or first.startswith("_sysconfigdata")

class Filter:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        return self.finder.find_spec(name, path, target) if is_there(name) else None

sys.meta_path = [Filter(finder) for finder in sys.meta_path]
"""

PROGRAM = """
import importlib, math, pkgutil
import torch
import samtune.sam, samtune.sharpness
from torch import nn
from samtune.sam import SAM, Method, Rule, TrainStep
from samtune.sharpness import lambda_max, m_sharpness

for package in (samtune.sam, samtune.sharpness):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)
    for name in package.__all__:
        getattr(package, name)

def rules(kind):
    yield kind
    for narrower in kind.__subclasses__():
        yield from rules(narrower)

torch.manual_seed(0)
inputs, targets = torch.randn(16, 4), torch.randint(0, 3, (16,))
used = 0
for rule in rules(Rule):
    if rule.__name__ in ("MaskRule", "AveragedAscentRule", "AdamWRule"):  # abstract; for another optimizer
        continue
    options = {"num_directions": 2} if rule.__name__ == "FrobRule" else {}
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    method = Method(rule, rho=lambda progress: 0.1 - 0.05 * progress, m=8, **options)
    step = TrainStep(model, nn.CrossEntropyLoss(), optimizer, method, batch_size=16)
    step.begin_epoch(0, 1, steps_per_epoch=3, examples=lambda n: (inputs[:n], targets[:n]))
    losses = []
    for _ in range(3):
        step(inputs, targets)
        losses.append(nn.functional.cross_entropy(model(inputs), targets).item())
    assert losses[-1] < losses[0], rule
    used += 1

sam = SAM(model.parameters(), torch.optim.SGD, lr=0.1)
def closure():
    sam.zero_grad()
    loss = nn.functional.cross_entropy(model(inputs), targets)
    loss.backward()
    return loss
sam.step(closure)
batches = [(inputs, targets)]
assert lambda_max(model, nn.CrossEntropyLoss(), batches).value > 0
assert m_sharpness(model, nn.CrossEntropyLoss(), batches, m=4).value > 0
assert "pydantic" not in sys.modules and "ray" not in sys.modules and "samtune.config" not in sys.modules
print(used)
"""


def test_both_libraries_work_where_torch_is_all_there_is():
    """Every module is imported, every rule takes three steps, and a measure of each kind is taken."""
    names = {"torch", *(requirement.split(";")[0].split(" ")[0] for requirement in requires("torch") or [])}
    allowed = {name.partition("=")[0].partition("<")[0].partition(">")[0].replace("-", "_") for name in names}
    allowed |= {"torchgen", "functorch", "mpmath", "markupsafe", "triton", "pkg_resources", "_distutils_hack"}
    program = BLOCKED.format(allowed=sorted(allowed)) + PROGRAM
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == 17


def test_the_sources_keep_to_it_for_type_checkers_too():
    """No import of another part of samtune, not even one that is never run; list operations in one module."""
    root = Path(samtune.sam.__file__).parent.parent
    for path in sorted([*(root / "sam").rglob("*.py"), *(root / "sharpness").rglob("*.py")]):
        text = path.read_text(encoding="utf-8")
        ours = re.findall(r"^\s*(?:from|import) (samtune[\w.]*)", text, flags=re.MULTILINE)
        assert all(name.startswith(("samtune.sam", "samtune.sharpness", "samtune.errors")) for name in ours), path
        if path.parts[-2] in ("sam", "rules"):
            assert not any(name.startswith("samtune.sharpness") for name in ours), path
        assert path.name == "vectors.py" or "_foreach_" not in text, path
