"""Pausing Python's collector of cycles."""

from __future__ import annotations

import gc

import pytest

from recon_cli.collector import paused_collector


def test_the_collector_goes_on_afterwards_if_it_did_before():
    assert gc.isenabled()
    with pytest.raises(KeyError), paused_collector():
        assert not gc.isenabled()
        with paused_collector():
            pass
        assert not gc.isenabled()
        raise KeyError
    assert gc.isenabled()
