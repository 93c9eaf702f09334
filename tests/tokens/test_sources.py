"""What a run says that it reads is what it reads."""

import pytest

from bloomery.tokens.loader import make_mixed_batch, token_rows
from bloomery.tokens.plan import Phase, make_plan
from bloomery.tokens.shards import token_set
from bloomery.tokens.sources import TrainingData

# Eight rows full to the last place, and five tokens in a row of 16.
SETS = [token_set([list(range(16))] * 8), token_set([[1, 2, 3], [4, 5]])]


def read(weights: list[float]) -> TrainingData:
    """Rows of 16, then of 8."""
    phases = [
        Phase(num_steps=4, batch_rows=4, row_tokens=16, weights=weights),
        Phase(num_steps=2, batch_rows=8, row_tokens=8, weights=weights),
    ]
    rows = {length: [token_rows(tokens, row_tokens=length) for tokens in SETS] for length in (16, 8)}
    plan = make_plan(phases, {length: [source.packed.num_rows for source in sources] for length, sources in rows.items()}, seed=0)
    return TrainingData(names=["large", "tiny"], train=rows, held_out={}, fingerprints=["", ""], plan=plan)


@pytest.mark.parametrize("weights", [[1, 0], [3, 1], [1, 1]])
def test_padding_is_that_of_the_batches_however_often_a_tiny_source_is_read(weights: list[float]) -> None:
    data = read(weights)
    places = tokens = 0
    for step in range(data.plan.num_steps):
        draw = data.plan.draw(step)
        batch = make_mixed_batch(data.train[draw.row_tokens], draw.source, draw.row)
        places, tokens = places + batch.document_BT.numel(), tokens + int((batch.document_BT > 0).sum())
    assert data.padding_fraction() == pytest.approx(1 - tokens / places)
    assert sum(data.count_tokens(data.plan.num_steps).values()) == places
