"""A short run of the rehearsal with drivers that come, go and are killed; `python -m skate.testing.churn` is the long one."""

from __future__ import annotations

from pathlib import Path

import pytest

from skate.testing.churn import Churn


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_nothing_of_a_killed_driver_reaches_another_or_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    churn = Churn(seed=3, seconds=10)
    churn.run()
    assert not churn.wrong, "\n".join(churn.wrong)
    assert churn.did["drivers killed"] and churn.did["commands"] and churn.did["calls of the bystander"] > 20
