"""docs/suite.md is what the models say today."""

import importlib.util
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def generator():
    spec = importlib.util.spec_from_file_location("reference", DOCS / "generate_suite_reference.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_committed_reference_is_current():
    committed = (DOCS / "suite.md").read_text(encoding="utf-8")
    assert committed == generator().reference(), "run: python docs/generate_suite_reference.py"


def test_every_key_of_every_model_is_explained():
    reference = generator()
    for model in reference.SECTIONS.values():
        explained = reference.explanations(model)
        for name, field in model.model_fields.items():
            assert field.exclude or explained.get(name), f"{model.__name__}.{name}"
