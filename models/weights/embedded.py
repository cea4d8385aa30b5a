"""Networks that are part of the repository, with their digests pinned, so that they can be told without being read.

Only declarations belong here. A test hashes the files; retraining one means writing its new digest down here.
"""

from __future__ import annotations

EMBEDDED: dict[str, str] = {
    "contact": "4ef3e27d6e7dec0454af7c4c8e2c3eda59519c54fd193aafe36a8f36e9caed26",
    "hand_lifter": "7b172b059b267cfd10929f5dcdb44172bdd272ef4f2e5499ccc7f7c9e0526418",
    "nano_vae": "72aaf8cc34e4112a05e1bd3a46fcd5c6ff4ee1f63ab9d96c72483da743c8d8a5",
}
"""Name -> SHA-256 of the network's file; of the autoencoder, what `models.vae.nano_vae_digest` gives."""
