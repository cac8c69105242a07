"""Log-probabilities in the shapes that servers give them, and those of the values of labels."""

from __future__ import annotations

import math

from llm_client.logprobs import value_logprobs
from llm_client.reply import rows_of


def test_the_probability_of_a_value_is_that_of_the_tokens_that_say_it() -> None:
    content = '{"labels": [{"role": "a", "text": "oat milk"}, {"role": "b", "text": "oat"}]}'
    cuts = ['{"labels": [{"role": "a", "text": "', "oat", " milk", '"}, {"role": "b", "text": "', "oat", '"}]}']
    tokens = [(t, -float(i)) for i, t in enumerate(cuts)]
    rows = rows_of(content)
    assert rows is not None
    assert value_logprobs(content, tokens, rows) == [-3.0, -4.0]
    assert value_logprobs(content, [*tokens, ("<|im_end|>", -0.5)], rows) == [-3.0, -4.0]
    assert all(math.isnan(x) for x in value_logprobs(content, tokens[:-1], rows))
