"""Data in and out on the command line, with and without a daemon."""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.processes import honed

EXCERPT = Path(__file__).parents[1] / "data" / "tau-airline-excerpt.jsonl"
SHAREGPT = {"conversations": [{"from": "human", "value": "2 + 2?"}, {"from": "gpt", "value": "4"}]}
ALPACA = {"instruction": "2 + 2?", "output": "four"}
PAIR = {"prompt": "2 + 2?", "chosen": "4", "rejected": "5"}


def _honed(
    folder: Path, *arguments: str, stdin: str = "", data: str = "data"
) -> subprocess.CompletedProcess[str]:
    kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    places = {"HOME": str(folder), "HONED__DATA_DIR": str(folder / data)}
    return subprocess.run(
        [sys.executable, "-m", "honed", *arguments],
        cwd=folder,
        env=kept | places | {"HONED__SCENARIO": "airline"},
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
    )


def _json(done: subprocess.CompletedProcess[str]) -> Any:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_several_files_of_several_forms(tmp_path: Path) -> None:
    """Lines, a compressed array and standard input; what cannot be read is named with its place."""
    (tmp_path / "a.jsonl").write_text(json.dumps(ALPACA) + "\n{broken\n")
    packed = gzip.compress(json.dumps([SHAREGPT, {"neither": 1}]).encode())
    (tmp_path / "b.json.gz").write_bytes(packed)
    stdin = json.dumps(PAIR) + "\n"
    found = _json(_honed(tmp_path, "import", "a.jsonl", "b.json.gz", "-", "--json", stdin=stdin))
    assert found["formats"] == {"alpaca": 1, "sharegpt": 1, "preference": 1}
    assert (found["episodes"], found["trajectories"], found["num_bad_rows"]) == (4, 4, 2)
    places = [(line, file, unit) for line, _, file, unit in found["bad_rows"]]
    assert places == [(2, "a.jsonl", "line"), (2, "b.json.gz", "item")]
    again = _honed(tmp_path, "import", "a.jsonl", "b.json.gz", "-", stdin=stdin)
    assert "0 episodes from 4 trajectories (4 known before); 4 in all" in again.stdout
    assert "1 rows of the form sharegpt" in again.stdout
    assert (
        "b.json.gz: item 2 skipped: no known form has the keys of this row: neither" in again.stderr
    )


def test_a_forced_form_and_nothing_that_fits(tmp_path: Path) -> None:
    """1 when rows were refused and none was taken; a missing file stores nothing of the others."""
    (tmp_path / "a.jsonl").write_text(json.dumps(ALPACA))
    done = _honed(tmp_path, "import", "a.jsonl", "--format", "sharegpt")
    assert (done.returncode, "line 1 skipped" in done.stderr) == (1, True)
    assert "Object missing required field `conversations`" in done.stderr
    assert _honed(tmp_path, "import", "a.jsonl", "--format", "xml").returncode == 2
    done = _honed(tmp_path, "import", "a.jsonl", "missing.jsonl", "--json")
    assert (done.returncode, done.stdout) == (1, "")
    assert _json(_honed(tmp_path, "import", "a.jsonl", "--json"))["known"] == 0


def test_rows_that_name_one_attempt_are_told(tmp_path: Path) -> None:
    """Two rows with one id are one attempt; the report does not call the second one known."""
    rows = [
        {
            "id": "x",
            "messages": [{"role": "user", "content": q}, {"role": "assistant", "content": q}],
        }
        for q in ("one", "two")
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = _json(_honed(tmp_path, "import", "a.jsonl", "--json"))
    assert (found["episodes"], found["known"], found["joined"]) == (1, 0, 1)


def test_out_of_one_folder_into_another_beside_their_daemons(tmp_path: Path) -> None:
    """Whole episodes, through compression, are the same; the daemon there counts them."""
    settings = 'scenario = "airline"\n[apply]\nkind = "none"'
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    with honed(tmp_path / "here", settings) as here, honed(tmp_path / "there", settings) as there:
        here.start("run")
        there.start("run")
        config = ("--config", str(here.config))
        assert _json(_run(tmp_path, "import", str(EXCERPT), "--json", *config))["episodes"] == 3
        out = tmp_path / "all.jsonl.gz"
        counts = _json(_run(tmp_path, "export", str(out), "--json", *config))
        assert (counts["rows"], counts["episodes"], counts["left_out"]) == (3, 3, {})
        assert out.stat().st_mode & 0o777 == 0o600
        assert sorted(p.name for p in tmp_path.iterdir()) == ["all.jsonl.gz", "here", "there"]
        config = ("--config", str(there.config))
        assert _json(_run(tmp_path, "import", str(out), "--json", *config))["episodes"] == 3
        assert _json(_run(tmp_path, "import", str(out), "--json", *config))["known"] == 3
        assert there.status()["episodes"] == 3
        done = _run(tmp_path, "export", *config)
        assert done.stdout.encode() == gzip.decompress(out.read_bytes())
        assert "3 rows from 3 episodes" in done.stderr


def test_what_was_held_out_elsewhere_is_held_out_here(tmp_path: Path) -> None:
    """An export says so, and the sides of group and task are settled before a training can look."""
    assert _json(_honed(tmp_path, "import", str(EXCERPT), "--json"))["episodes"] == 3
    lines = _honed(tmp_path, "export").stdout.splitlines()
    (tmp_path / "there").mkdir()
    marked = [json.dumps(json.loads(line) | {"held_out": True}) for line in lines]
    (tmp_path / "there" / "all.jsonl").write_text("\n".join([marked[0], *lines[1:]]))
    there = tmp_path / "there"
    assert _json(_honed(there, "import", "all.jsonl", "--json"))["episodes"] == 3
    again = [json.loads(line) for line in _honed(there, "export").stdout.splitlines()]
    group = json.loads(marked[0])["episode"]["group_id"]
    assert [row.get("held_out", False) for row in again] == [
        row["episode"]["group_id"] == group for row in again
    ]
    assert again[0]["held_out"]


def _run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "honed", *arguments],
        cwd=folder,
        env=os.environ | {"HOME": str(folder)},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_what_is_chosen_and_what_is_left_out(tmp_path: Path) -> None:
    """By outcome and by time; a shape's own default; a file that cannot be written is told."""
    assert _json(_honed(tmp_path, "import", str(EXCERPT), "--json"))["episodes"] == 3
    rewards = [json.loads(line)["reward"] for line in EXCERPT.read_text().splitlines()]

    def rows(*arguments: str) -> int:
        return int(_json(_honed(tmp_path, "export", "x.jsonl", "--json", *arguments))["rows"])

    assert rows("--format", "sft") == sum(map(bool, rewards))
    assert rows("--format", "sft", "--outcome", "failure") == rewards.count(0)
    assert rows("--format", "labelled", "--since", "1h") == 3
    assert rows("--since", "2099-01-01") == 0
    assert rows("--scenario", "another") == 0
    done = _honed(tmp_path, "export", "no/such/folder.jsonl")
    assert (done.returncode, "cannot be written" in done.stderr) == (1, True)
    assert _honed(tmp_path, "export", "--since", "yesterday").returncode == 2
    assert _honed(tmp_path, "export", "--format", "preference", "--outcome", "all").returncode == 2
