"""Whether the answer changed: by attaching the method, before it learnt anything, by saving it, and by merging it."""

from __future__ import annotations

from collections.abc import Iterator

from bench.records.figures import Better, Figure, Scope, Unit
from bench.records.record import MERGED, Missing, Reading
from bench.workload.subject import Stage, Subject

FIGURES = (
    Figure(
        "attach_error",
        "start error",
        Unit.FRACTION,
        Better.NEITHER,
        "Largest difference of a logit once the method is attached and before it trains, over the base's largest.",
        Scope.TRAINING,
    ),
    Figure(
        "reload_error",
        "reload error",
        Unit.FRACTION,
        Better.LOWER,
        "Largest difference of a logit once the checkpoint is read into a new base, over the largest before.",
    ),
    Figure(
        "merge_error",
        "merge error",
        Unit.FRACTION,
        Better.LOWER,
        "Largest difference of a logit after merging, over the largest logit before, on held-out text.",
    ),
)
STAGES = frozenset({Stage.TRAINING, Stage.SERVED})


def measure(subject: Subject) -> Iterator[Reading | Missing]:
    """The errors that were found when the stage was reached."""
    if subject.stage is Stage.TRAINING:
        assert subject.attach_error is not None
        yield Reading("attach_error", subject.attach_error, subject.state)
        return
    if subject.state != MERGED:
        assert subject.reload_error is not None
        yield Reading("reload_error", subject.reload_error, subject.state)
    else:
        assert subject.merge_error is not None
        yield Reading("merge_error", subject.merge_error, MERGED)
