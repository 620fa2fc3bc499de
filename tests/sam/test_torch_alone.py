"""`samtune.sam` and `samtune.sharpness` need nothing but torch: used where nothing else can be imported."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path

import samtune.sam

BLOCKED = """
import sys

ALLOWED = set(sys.stdlib_module_names) | set({allowed!r})
OURS = {ours!r}

def is_there(name):
    first = name.partition(".")[0]
    if first == "samtune":
        return name in OURS or name.startswith(tuple(package + "." for package in OURS[1:]))
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


def run_with_torch_alone(program, *ours):
    """Runs a program where nothing can be imported but torch, what torch requires, and these packages of samtune."""
    names = {"torch", *(requirement.split(";")[0].split(" ")[0] for requirement in requires("torch") or [])}
    allowed = {name.partition("=")[0].partition("<")[0].partition(">")[0].replace("-", "_") for name in names}
    allowed |= {"torchgen", "functorch", "mpmath", "markupsafe", "triton", "pkg_resources", "_distutils_hack"}
    ours = ("samtune", "samtune.lazy", "samtune.errors", "samtune.sam", "samtune.sharpness", *ours)
    program = BLOCKED.format(allowed=sorted(allowed), ours=ours) + program
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_both_libraries_work_where_torch_is_all_there_is():
    """Every module is imported, every rule takes three steps, and a measure of each kind is taken."""
    assert int(run_with_torch_alone(PROGRAM)) == 21


def test_the_check_of_a_card_works_where_torch_is_all_there_is(tmp_path):
    """From the command to its JSON: no network, no Ray, no pydantic; on a CPU it says that it is no measurement."""
    file = tmp_path / "check.json"
    program = f"""
import runpy, socket
def refused(*_): raise AssertionError("the network is used")
socket.socket.connect = refused
sys.argv = ["samtune.gpucheck", "--quick", "--device", "cpu", "--json", {str(file)!r}]
try:
    runpy.run_module("samtune.gpucheck", run_name="__main__")
except SystemExit as end:
    assert end.code == 0, end.code
"""
    needed = ("samtune.accelerator", "samtune.gpucheck", "samtune.testing")
    models = ("samtune.models", "samtune.models.resnet", "samtune.models.wide_resnet", "samtune.models.initialise")
    table = run_with_torch_alone(program, *needed, *models)
    assert "no GPU: sizes reduced, not a measurement of a GPU" in table
    report = json.loads(file.read_text(encoding="utf-8"))
    assert report["passed"]
    assert report["note"] == "no GPU: sizes reduced, not a measurement of a GPU"
    assert not report["card"]["is_gpu"]
    assert {each["name"] for each in report["steps"]} >= {"SGD", "SAM m=b", "SAM m=b/4", "SAM m=b/8"}
    assert all("WRN-28" not in each["setting"] and "ViT-S" not in each["setting"] for each in report["steps"])


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
