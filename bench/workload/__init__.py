"""The thing measured: model, text, training, evaluation, typed plan."""
