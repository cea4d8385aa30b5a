"""The lake: Delta tables, content-addressed blobs, and the schema of every table.

No stage logic belongs here, and nothing outside this package opens a Delta table.
"""

from pipelines.store.blobs import BlobStore
from pipelines.store.delta import Commit, DeltaStore, Overtaken
from pipelines.store.schemas import TableSpec
from pipelines.store.tables import TABLES

__all__ = ["TABLES", "BlobStore", "Commit", "DeltaStore", "Overtaken", "TableSpec"]
