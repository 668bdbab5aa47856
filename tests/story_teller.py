"""A really trained model for tests that need one: what it is and says never changes, whichever model is bundled.

1.44 million parameters, llama, Q8_0, 512 positions, 2048 tokens, and a chat template that only joins messages: it tells
children's stories. training/stories/ says how it was made.
"""

from __future__ import annotations

from pathlib import Path

STORY_TELLER = Path(__file__).parent / "data" / "ingle-stories.gguf"
