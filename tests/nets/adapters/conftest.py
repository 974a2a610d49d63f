"""Before any test imports CompressAI, what it doesn't need here is stood in for."""

from compressai_stub import stub_unused

stub_unused()
