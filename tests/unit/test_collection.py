"""Garbage collection is off inside, and afterwards as it was before."""

import gc

import pytest

from graceful_forgetting.runtime.collection import without_collection


@pytest.mark.parametrize("enabled", [True, False])
def test_collection_is_off_inside_and_comes_back(enabled):
    before = gc.isenabled()
    (gc.enable if enabled else gc.disable)()
    try:
        with pytest.raises(ValueError, match="inside"), without_collection():
            assert not gc.isenabled()
            raise ValueError("inside")
        assert gc.isenabled() == enabled
    finally:
        (gc.enable if before else gc.disable)()
