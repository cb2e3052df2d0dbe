"""The lines of metrics.jsonl: what is a metric, what is skipped and said, and a file that grows."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skydeck_nb import metrics
from skydeck_nb.metrics import Notes, Reading, Tail, parse, read_all


def one(line: str) -> Reading:
    (reading,) = parse([line])
    return reading


@pytest.mark.parametrize(
    ("line", "step", "values"),
    [
        ('{"step": 100, "loss": 0.3, "val/acc": 1}', 100, {"loss": 0.3, "val/acc": 1.0}),
        ('{"loss": 0.3}', None, {"loss": 0.3}),
        ('{"step": 3.0, "loss": -Infinity}', 3, {"loss": -math.inf}),
        ('{"step": 1, "val": {"acc": 0.9, "by": {"class": 2}}}', 1, {"val.acc": 0.9, "val.by.class": 2.0}),
        ('{"step": "many", "loss": 1}', None, {"loss": 1.0}),
        ('{"step": 2.5, "loss": 1}', None, {"loss": 1.0, "step": 2.5}),
    ],
)
def test_numbers_are_metrics(line: str, step: int | None, values: dict[str, float]) -> None:
    reading = one(line)
    assert (reading.step, reading.values) == (step, values)


def test_nan_is_a_reading() -> None:
    assert math.isnan(one('{"loss": NaN}').values["loss"])


@pytest.mark.parametrize("when", ["0.5", '"1970-01-01T00:00:00.5Z"', '"1970-01-01T01:00:00.5+01:00"'])
@pytest.mark.parametrize("key", ["time", "timestamp"])
def test_a_line_may_say_when(key: str, when: str) -> None:
    assert one(f'{{"{key}": {when}, "loss": 1}}').at == datetime(1970, 1, 1, 0, 0, 0, 500_000, tzinfo=UTC)


def test_what_is_no_number_is_ignored_and_counted() -> None:
    notes = Notes()
    lines = ['{"loss": 1, "phase": "train", "done": true, "nothing": null, "all": [1]}', '{"phase": "eval"}', ""]
    assert [r.values for r in parse(lines, notes)] == [{"loss": 1.0}]
    assert notes.ignored == {"phase": 2, "done": 1, "all": 1}
    assert notes.sentences() == ("metrics.jsonl: no numbers, ignored: phase (2 times), done (1 times), all (1 times).",)


def test_a_bad_line_is_skipped_and_named_once(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"loss": 1}\nTraceback!\n[1, 2]\n{"loss": 2}\n')
    tail = Tail(path)
    assert [r.values["loss"] for r in tail.read()] == [1.0, 2.0]
    assert tail.read() == []
    first, second = tail.notes.sentences()
    assert first.startswith(f"{path}, line 2: no JSON")
    assert second == f"{path}, line 3: a JSON list, not an object; skipped."


def test_many_bad_lines_are_counted_not_listed() -> None:
    notes = Notes()
    assert list(parse(["oops"] * 1000, notes)) == []
    assert len(notes.sentences()) == 21
    assert notes.sentences()[-1].startswith("metrics.jsonl: 980 more lines")


def test_a_torn_last_line_waits_for_its_rest(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    tail = Tail(path)
    assert tail.read() == []
    with path.open("a") as file:
        file.write('{"loss": 1}\n{"lo')
        file.flush()
        assert [r.values["loss"] for r in tail.read()] == [1.0]
        assert tail.read() == []
        file.write('ss": 2}\n')
        file.flush()
        assert [r.values["loss"] for r in tail.read()] == [2.0]
    assert tail.notes.skipped == 0


def test_a_tail_goes_on_where_another_stopped(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"loss": 1}\n')
    first = Tail(path)
    first.read()
    with path.open("a") as file:
        file.write('bad\n{"loss": 2}\n')
    second = Tail(path, at=first.state)
    assert [r.values["loss"] for r in second.read()] == [2.0]
    assert list(second.notes.bad) == [2]


@pytest.mark.parametrize("how", ["truncated", "replaced"])
def test_another_file_is_read_from_its_start(tmp_path: Path, how: str) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"loss": 1}\n{"loss": 2}\n')
    tail = Tail(path)
    tail.read()
    if how == "replaced":
        (tmp_path / "new").write_text('{"loss": 3}\n{"loss": 4}\n{"loss": 5}\n')
        (tmp_path / "new").replace(path)
        assert len(tail.read()) == 3
    else:
        path.write_text('{"loss": 3}\n')
        assert [r.values["loss"] for r in tail.read()] == [3.0]


def test_a_whole_file_gives_its_last_line_without_an_end_too(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"loss": 1}\n{"loss": 2}')
    assert [r.values["loss"] for r in read_all(path)] == [1.0, 2.0]
    path.write_text('{"loss": 1}\n{"los')
    assert [r.values["loss"] for r in read_all(path)] == [1.0]
    assert read_all(tmp_path / "none.jsonl") == []


def test_a_line_without_end_is_not_read_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "CHUNK", 64)
    path = tmp_path / "metrics.jsonl"
    path.write_text("x" * 200 + '\n{"loss": 1}\n')
    tail = Tail(path)
    assert [r.values["loss"] for r in tail.read()] == [1.0]
    assert tail.notes.skipped == 4


@given(st.lists(st.floats(width=64)), st.integers(1, 50))
def test_however_it_is_cut_every_reading_comes_once(values: list[float], cut: int) -> None:
    import json
    import tempfile

    text = "".join(json.dumps({"step": i, "x": v}) + "\n" for i, v in enumerate(values))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "metrics.jsonl"
        tail = Tail(path)
        got: list[Reading] = []
        for start in range(0, len(text), cut):
            with path.open("a") as file:
                file.write(text[start : start + cut])
            got += tail.read()
    assert [r.step for r in got] == list(range(len(values)))
    assert all(
        r.values["x"] == v or (math.isnan(v) and math.isnan(r.values["x"])) for r, v in zip(got, values, strict=True)
    )
