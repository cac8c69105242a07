"""A bundle whose teacher cannot be asked is refused before an engine or a worker starts."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from serving.supervisor.supervisor import Supervisor
from task.errors import InputError
from task.serving_settings import Consult, Serving
from tests.serving.conftest import Open


@pytest.mark.parametrize(("variable", "value"), [
    ("LIMBECK_TEST_KEY", "sk-made\nup"), ("HTTPS_PROXY", "socks5://127.0.0.1:1080"),
])
def test_a_key_or_a_proxy_that_cannot_be_used_ends_the_start(
    variable: str, value: str, harness: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    monkeypatch.setenv("NO_PROXY", "")

    def override(settings: Serving) -> Serving:
        return settings.model_copy(update={"consult": Consult(per_hour=10, api_key_env="LIMBECK_TEST_KEY")})

    async def run() -> None:
        async with harness() as h:
            supervisor = Supervisor(h.route.bundle.folder, state=tmp_path / "state", override=override)
            rollout = next(iter(supervisor.rollouts.values()))
            with pytest.raises(InputError, match=variable):
                await rollout.open()
            assert rollout.active is None

    asyncio.run(run())
