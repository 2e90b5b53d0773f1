"""The form of the compiled steps that any torch serves: tensors read by DLPack, where ``torchclip._torch`` is there."""

from __future__ import annotations

import functools
import importlib.util
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest

from torchclip.backends import native


@functools.cache
def load() -> ModuleType:
    """A second ``torchclip._C``, from a copy of its file: which form reads tensors is chosen once for each."""
    assert native.NATIVE is not None and native.NATIVE.__file__ is not None
    folder = Path(tempfile.mkdtemp())
    copy = shutil.copy(native.NATIVE.__file__, folder)
    spec = importlib.util.spec_from_file_location("torchclip._C", copy)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    shutil.rmtree(folder)  # what is loaded stays
    module.use_reader(None)
    return module


@contextmanager
def portable() -> Iterator[ModuleType]:
    """Meanwhile the portable form is the extension."""
    if native.NATIVE is None:
        pytest.skip("torchclip._C is not built")
    module = load()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "NATIVE", module)
        yield module
