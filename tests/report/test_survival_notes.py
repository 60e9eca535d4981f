"""What merges left of their adapters, in one sentence."""

from dataclasses import replace

import pytest

from evalkit.report.survival_notes import survival_notes


@pytest.mark.parametrize(
    ("share", "words"),
    [
        (0.0, "(none of its codes changed)"),
        (1e-7, "(under 0.001 % of its codes changed)"),
        (0.022, "(2.2 % of its codes changed)"),
        (None, "."),
    ],
)
def test_the_codes_that_changed_are_told_as_far_as_they_are_known(made_up, share, words):
    run = made_up.run()
    score = replace(made_up.survival(0.5), value=0.5)
    extra = {name: value for name, value in score.extra.items() if name != "changed_share"}
    score = replace(score, extra=extra if share is None else {**extra, "changed_share": share})
    merged = replace(run.variants[-1], scores={**run.variants[-1].scores, "survival": score})
    (note,) = survival_notes(replace(run, variants=(*run.variants[:-1], merged)))
    assert note.endswith(f"{merged.name} 50.0 %{words if share is None else f' {words}.'}")
