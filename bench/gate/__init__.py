"""The latency regression check and its own error rates."""
