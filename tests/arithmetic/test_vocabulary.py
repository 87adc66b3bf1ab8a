import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilot.arithmetic.vocabulary import CHARACTERS, END, VOCAB_SIZE, decode, encode, encode_lines
from pilot.errors import PilotError


@given(st.text(CHARACTERS))
def test_decode_undoes_encode(text):
    assert decode(encode(text)) == text


def test_encode_by_hand():
    assert encode("1+2=") == [END, 1, 10, 2, 15]
    assert VOCAB_SIZE == 17


def test_complete_sequences_have_both_markers():
    ids = encode_lines(["1+2=3", "9*0=0"])
    np.testing.assert_array_equal(ids, [[*encode("1+2=3"), END], [*encode("9*0=0"), END]])


def test_unknown_characters_and_ids_are_named():
    with pytest.raises(PilotError, match=r"character '/' in '1/2'"):
        encode("1/2")
    with pytest.raises(PilotError, match=r"character 'é' in '1é2=3'"):
        encode_lines(["1+2=3", "1é2=3"])
    with pytest.raises(PilotError, match="token 17 "):
        decode([1, 17])
