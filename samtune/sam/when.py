"""At which steps a method looks for sharpness; the others are the base optimizer's, at one pass. No torch at import."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class When:
    """Which steps are the method's. A function of the step and the seed alone: equal on all ranks and after a resume.

    Sources: every k-th step as in Composer's SAM (`interval`); late in training, Zhou et al., ICLR 2025; at random,
    SS-SAM (Zhao et al., 2022, arXiv 2203.09962, with a constant as its scheduling function).

    Raises:
        ValueError: a value is out of range.
    """

    every: int = 1
    """The method's step is each k-th, the first of training among them; 1: all."""
    start: float = 0.0
    """Share of the training, in [0, 1], before which all steps are the base optimizer's."""
    stop: float = 1.0
    """Share of the training from which on all steps are the base optimizer's again."""
    probability: float = 1.0
    """Of each step that the above leaves to the method, drawn from the seed and the step's number."""

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(f"every must be at least 1 (got {self.every})")
        for name in ("start", "stop", "probability"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in [0, 1] (got {getattr(self, name)})")
        if self.stop <= self.start:
            raise ValueError(f"stop must be larger than start (start is {self.start}, stop {self.stop})")

    @property
    def share(self) -> float:
        """Share of all steps that are the method's, to within one step; with a probability the expected share."""
        return (self.stop - self.start) * self.probability / self.every

    def holds(self, step: int, progress: float, seed: int) -> bool:
        """Whether a step is the method's.

        Args:
            step: number of the steps before it.
            progress: share of the training that is done before it, in [0, 1].
            seed: of the trial.
        """
        stopped = self.stop < 1 and progress >= self.stop  # a loop may run past the end it announced
        if step % self.every or progress < self.start or stopped:
            return False
        if self.probability == 1:
            return True
        from samtune.sam.randomness import derive_seed

        return derive_seed("when", seed, step) < self.probability * 2.0**63
