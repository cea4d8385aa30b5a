"""The picture of all annotation stages."""

import pytest

from pipelines.previews.overview import overview


def test_a_batch_that_was_never_annotated_is_refused(lake):
    with pytest.raises(LookupError, match="itryon materialize --batch nobody"):
        overview(lake, "nobody")
