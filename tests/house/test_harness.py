"""The arithmetic and the order of the benchmarks' harness."""

from __future__ import annotations

import pytest

from benchmarks.__main__ import number, render, to_record
from benchmarks.harness import Limit, Series, Table, interleave, run_program


def test_contestants_take_turns_and_the_warm_up_does_not_count() -> None:
    order: list[str] = []

    def contestant(name: str) -> float:
        order.append(name)
        return float(len(order))

    series = interleave(2, {"a": lambda: contestant("a"), "b": lambda: contestant("b")})
    assert order == ["b", "a", "a", "b", "b", "a"]
    assert [list(one.values) for one in series] == [[3.0, 6.0], [4.0, 5.0]]


def test_ratio_is_that_of_the_medians() -> None:
    table = Table(title="t", series=[Series("peer", [1.0, 2.0, 9.0]), Series("ours", [3.0, 3.0, 90.0])], peer="peer")
    assert table.ratio("ours") == 1.5
    with pytest.raises(KeyError):
        table.ratio("theirs")


def test_a_missed_limit_is_said() -> None:
    table = Table(title="t", series=[Series("s", [2.0])], limits=[Limit("two", 2.0, 2.0), Limit("one", 2.0, 1.0)])
    lines = "\n".join(render(table))
    assert "limit met: two" in lines
    assert "limit MISSED: one" in lines
    assert [limit["met"] for limit in to_record(table)["limits"]] == [True, False]


def test_columns_line_up() -> None:
    series = [Series("short", [1.0]), Series("a long name", [12345.678], note="n"), Series("part", [0.5], part=True)]
    lines = render(Table(title="t", series=series, peer="short"))[2:]
    ends = [line.index(text) + len(text) for line, text in zip(lines[1:], ("1", "12,346", "0.500"), strict=True)]
    assert len(set(ends)) == 1


@pytest.mark.parametrize(
    ("value", "text"), [(0.0123, "0.012"), (1.234, "1.23"), (123.45, "123.5"), (3231744, "3,231,744"), (2.0, "2")]
)
def test_figures(value: float, text: str) -> None:
    assert number(value) == text


def test_a_program_is_measured() -> None:
    run = run_program(["/bin/sh", "-c", "exit 7"])
    assert run.status == 7
    assert 0 < run.wall < 10_000
    assert run.page_faults > 0
