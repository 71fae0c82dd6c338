"""Whether merging changed the answer."""

from __future__ import annotations

from collections.abc import Iterator

from bench.figures import Better, Figure, Unit
from bench.records import MERGED, Missing, Reading
from bench.subject import Stage, Subject

FIGURES = (
    Figure(
        "merge_error",
        "merge error",
        Unit.FRACTION,
        Better.LOWER,
        "Largest difference of a logit after merging, over the largest logit before, on held-out text.",
    ),
)
STAGES = frozenset({Stage.SERVED})


def measure(subject: Subject) -> Iterator[Reading | Missing]:
    """The error that was found when this state was made."""
    if subject.state == MERGED:
        assert subject.merge_error is not None
        yield Reading("merge_error", subject.merge_error, MERGED)
