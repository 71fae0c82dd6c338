"""Quality on held-out text of the domain, before the training budget (the base) and after it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from bench.records.metrics import Better, Metric, Scope, Unit
from bench.records.record import Measurement, Missing
from bench.workload.subject import InferenceSubject

_quality = partial(Metric, scope=Scope.PROGRESS)
METRICS = (
    _quality("loss", "loss", Unit.NATS, Better.LOWER, "Mean negative log-likelihood of a held-out token."),
    _quality("bits_per_byte", "bits/byte", Unit.BITS, Better.LOWER, "The same in bits for each byte of held-out text."),
    _quality("token_accuracy", "accuracy", Unit.FRACTION, Better.HIGHER, "Held-out tokens that the model ranks first."),
)


def measure_inference(subject: InferenceSubject) -> Iterator[Measurement | Missing]:
    """Loss, bits per byte and accuracy of this state."""
    from bench.workload.evaluation import evaluate_model

    corpus = subject.corpus
    quality = evaluate_model(
        subject.model, corpus.held_out, corpus.held_out_bytes, subject.plan.workload.train_batch_size
    )
    yield Measurement("loss", quality.loss, subject.state)
    if quality.bits_per_byte is None:
        yield Missing("bits_per_byte", subject.state, str(corpus.bytes_missing))
    else:
        yield Measurement("bits_per_byte", quality.bits_per_byte, subject.state)
    yield Measurement("token_accuracy", quality.token_accuracy, subject.state)
