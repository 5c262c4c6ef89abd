from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rbft.models.score import AnswerTree


def test_shared_beginnings_stand_once() -> None:
    tree = AnswerTree.of([[5, 9], [5, 6, 9], [7, 9]])
    assert tree.tokens == (5, 6, 7)
    assert tree.parents == (-1, 0, -1)
    assert tree.depths == [0, 1, 0]
    assert tree.sees.tolist() == [[True, False, False], [True, True, False], [False, False, True]]
    assert tree.edges == ((0, 5), (1, 9), (1, 6), (2, 9), (0, 7), (3, 9))
    assert tree.paths == ((0, 1), (0, 2, 3), (4, 5))


def test_answers_of_one_token_have_no_node() -> None:
    tree = AnswerTree.of([[9], [4]])
    assert (tree.tokens, tree.edges, tree.paths) == ((), ((0, 9), (0, 4)), ((0,), (1,)))
    assert tree.sees.shape == (0, 0)


@given(st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=5), min_size=1, max_size=6))
def test_every_path_spells_its_answer(answers: list[list[int]]) -> None:
    tree = AnswerTree.of(answers)
    for answer, path in zip(answers, tree.paths, strict=True):
        assert [tree.edges[edge][1] for edge in path] == answer
        rows = [tree.edges[edge][0] for edge in path]
        assert rows[0] == 0
        seen: list[int] = []
        for row, token in zip(rows[1:], answer, strict=False):
            node = row - 1
            assert tree.tokens[node] == token
            assert tree.depths[node] == len(seen)
            seen.append(node)
            assert tree.sees[node].nonzero().flatten().tolist() == sorted(seen)
