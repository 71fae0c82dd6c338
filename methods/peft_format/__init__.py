"""Checkpoints in the format of Hugging Face peft (https://github.com/huggingface/peft), a module per method it has."""
