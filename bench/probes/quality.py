"""Quality on held-out text of the domain, before the training budget (the base) and after it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from bench.records.figures import Better, Figure, Scope, Unit
from bench.records.record import Missing, Reading
from bench.workload.subject import Stage, Subject

_quality = partial(Figure, scope=Scope.PROGRESS)
FIGURES = (
    _quality("loss", "loss", Unit.NATS, Better.LOWER, "Mean negative log-likelihood of a held-out token."),
    _quality("bits_per_byte", "bits/byte", Unit.BITS, Better.LOWER, "The same in bits for each byte of held-out text."),
    _quality("token_accuracy", "accuracy", Unit.FRACTION, Better.HIGHER, "Held-out tokens that the model ranks first."),
)
STAGES = frozenset({Stage.BASE, Stage.SERVED})


def measure(subject: Subject) -> Iterator[Reading | Missing]:
    """Loss, bits per byte and accuracy of this state."""
    from bench.workload.evaluation import evaluate_model

    corpus = subject.corpus
    quality = evaluate_model(
        subject.model, corpus.held_out, corpus.held_out_bytes, subject.plan.workload.train_batch_size
    )
    yield Reading("loss", quality.loss, subject.state)
    yield Reading("bits_per_byte", quality.bits_per_byte, subject.state)
    yield Reading("token_accuracy", quality.token_accuracy, subject.state)
