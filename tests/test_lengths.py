"""The rows of sequences of several lengths, against torch's packing."""

from itertools import pairwise

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.utils.rnn import pack_sequence

from cellzoo.engines.compiled.lengths import Lengths

LENGTHS = st.lists(st.integers(1, 9), min_size=1, max_size=8).map(lambda n: sorted(n)[::-1])


def numbered(lengths):
    """A sequence of each length; no two rows are the same."""
    total = sum(lengths)
    return torch.arange(2 * total).unflatten(0, (total, 2)).split(lengths)


def lengths_of(lengths):
    return Lengths(pack_sequence(numbered(lengths)).batch_sizes.tolist())


@given(lengths=LENGTHS)
def test_states_before_each_step_and_in_the_end(lengths):
    states = numbered([length + 1 for length in lengths])  # the initial one first
    packed = pack_sequence(states).data
    found = lengths_of(lengths)
    assert torch.equal(found.before(packed), pack_sequence([s[:-1] for s in states]).data)
    assert torch.equal(found.final(packed), torch.stack([s[-1] for s in states]))


@given(lengths=LENGTHS)
def test_each_sequence_is_turned_by_itself(lengths):
    sequences = numbered(lengths)
    packed, turned = (
        pack_sequence(each).data for each in (sequences, [s.flip(0) for s in sequences])
    )
    found = lengths_of(lengths)
    assert torch.equal(found.turned(packed), turned)
    assert torch.equal(found.turned(turned), packed)


@given(lengths=LENGTHS, parts=st.integers(1, 8))
def test_parts_have_about_as_many_rows(lengths, parts):
    parts = min(parts, len(lengths))
    bounds = lengths_of(lengths).bounds(parts)
    assert (bounds[0], bounds[-1], len(bounds)) == (0, len(lengths), parts + 1)
    rows = [sum(lengths[first:end]) for first, end in pairwise(bounds)]
    assert min(rows) > 0
    assert max(rows) <= sum(lengths) / parts + lengths[0]
