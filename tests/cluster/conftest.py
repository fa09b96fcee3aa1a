from pathlib import Path

import pytest
from plugins import install


@pytest.fixture(scope="session")
def plugins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that, on PYTHONPATH, is an installed package with six methods."""
    return install(tmp_path_factory.mktemp("plugins"))
