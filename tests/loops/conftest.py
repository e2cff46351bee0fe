"""Nothing that these tests run may ask a hub for anything."""

from __future__ import annotations

import os

# Hugging Face's packages read it once, when they are imported.
os.environ["HF_HUB_OFFLINE"] = "1"
