"""nano: a vision-language model of a few million parameters that ships inside the package and is taught by one command."""

from pathlib import Path

WEIGHTS = Path(__file__).parent / "weights"
"""The shipped checkpoint in Hugging Face layout: config, processor, tokenizer and safetensors."""
