"""`honed review` on a real daemon: look, drop, correct, approve; nothing is asked on a terminal."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from honed.client import HonedClient
from tests.processes import Honed, honed

SETTINGS = """
scenario = "airline"
base_model = "BASE"
trigger = "count(6)"
check_interval = 0.05
[apply]
kind = "none"
[learn]
review = true
[events]
settle = "0s"
[train]
min_rows = 1
[gate]
held_out_fraction = 0.0001
"""


def ask(daemon: Honed, *arguments: str, text: str | None = None, status: int = 0) -> Any:
    """Run `honed review ... --json` without a terminal; its answer, or what it said on stderr."""
    command = [sys.executable, "-m", "honed", "review", *arguments]
    command += ["--config", str(daemon.config), "--json"]
    done = subprocess.run(
        command, input=text, stdin=None if text else subprocess.DEVNULL,
        capture_output=True, text=True, timeout=90,
    )  # fmt: skip
    assert done.returncode == status, done.stderr + done.stdout
    return json.loads(done.stdout) if status == 0 else done.stderr


def test_a_run_waits_is_looked_at_and_decided(tmp_path: Path) -> None:
    """It survives kill -9; what is dropped and corrected is what the approval names; rejecting moves on."""
    with honed(tmp_path, SETTINGS.replace("BASE", str(tmp_path / "no-model"))) as daemon:
        daemon.start("run")
        with HonedClient(daemon.data_dir / "feed.sock") as client:
            for number in range(6):
                names = {"task_id": f"t{number}", "receipt_id": f"r{number}"}
                question = [{"role": "user", "content": f"what is {number} and {number}?"}]
                client.llm_call(question, {"role": "assistant", "content": f"{number}"}, **names)
                client.outcome(task_id=f"t{number}", success=True, source="desk")
        [waiting] = daemon.until(lambda: daemon.status()["reviews"], "a run waits")
        assert (waiting["reason"], waiting["num_episodes"]) == ("count(6)", 6)
        daemon.kill("run")

        # without a daemon: on the store
        shown = ask(daemon, "--rows", "6", "--raw")["preview"]
        assert (shown["num_rows"], shown["review"]["id"]) == (6, waiting["run_id"])
        assert shown["by_verdict"] == {"desk": {"taught": 6, "held_out": 0, "left_out": 0}}
        first, second, *_ = sorted(row["episode_id"] for row in shown["rows"])
        assert ask(daemon, "drop", first, "--by", "ann", "--note", "a test") == {"changed": 1}

        daemon.start("run")
        assert daemon.status()["reviews"] == [waiting]
        remark = {"episodes": [first, second], "said_by": "bob"}
        assert daemon.ask("POST", "/v1/review/remark", remark | {"kind": "drop"}) == {"changed": 1}
        keep = {"episodes": [second], "kind": "keep", "said_by": "ann"}
        assert daemon.ask("POST", "/v1/review/remark", keep) == {"changed": 1}
        [taken] = ask(daemon, "correct", second, "--answer", "-", "--by", "ann", text="two\n")
        assert taken["became"] == "stored"
        told = ask(daemon, "approve", shown["data_digest"][:12], status=1)
        assert "have changed since they were shown" in told

        preview = daemon.ask("GET", "/v1/review?rows=6")
        assert (preview["num_rows"], preview["left_out"]) == (5, {"dropped in review": 1})
        assert [(r["kind"], r["said_by"]) for r in preview["remarks"]] == [
            ("drop", "ann"),
            ("drop", "bob"),
            ("keep", "ann"),
        ]
        given = [(r["episode_id"], r["said_by"]) for r in preview["corrections"]]
        assert given == [(second, "ann")]
        [corrected] = [row for row in preview["rows"] if row["episode_id"] == second]
        assert json.loads(corrected["data"])["messages"][-1]["content"] == "two"
        rejected = ask(daemon, "reject", "--by", "ann", "--note", "not yet")
        assert rejected == {"run_id": waiting["run_id"]}
        [run] = daemon.ask("GET", "/v1/runs")["runs"]
        assert (run["state"], run["message"]) == ("skipped", "rejected in review by ann: not yet")
        assert daemon.status()["reviews"] == []
        assert daemon.stop("run") == 0


def test_the_words_on_the_screen(tmp_path: Path) -> None:
    """A person reads counts and reasons; an unknown episode and an unknown option are refused by name."""
    with honed(tmp_path, SETTINGS.replace("BASE", str(tmp_path / "no-model"))) as daemon:
        daemon.start("run")
        command = [sys.executable, "-m", "honed", "review", "--config", str(daemon.config)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert "no run waits; one that started now would learn from this" in done.stdout
        assert "it would train on nothing: no episodes" in done.stdout
        other = ask(daemon, "--learn-model", "dpo", status=1)
        assert "nothing learns by 'dpo' here: expected one of chat" in other
        assert "no episode has the id nowhere" in ask(daemon, "drop", "nowhere", status=1)
        assert daemon.stop("run") == 0


def test_rows_are_shown_with_what_counts_in_the_loss(tmp_path: Path, tiny_base: Path) -> None:
    """The text that the base model would be trained on; only the answer counts."""
    settings = SETTINGS.replace("BASE", str(tiny_base)).replace("review = true", "review = false")
    with honed(tmp_path, settings) as daemon:
        daemon.start("run")
        with HonedClient(daemon.data_dir / "feed.sock") as client:
            question = [{"role": "user", "content": "what is two and two?"}]
            client.llm_call(question, {"role": "assistant", "content": "four"}, task_id="t1")
            client.outcome(task_id="t1", success=True)
        daemon.until(lambda: daemon.status()["episodes"], "the attempt is an episode")
        shown = ask(daemon, "--rows", "1")
        assert shown["not_rendered"] is None
        [example] = shown["rendered"]
        kept = [
            s["text"] for row in example["rows"] for s in row["segments"] if s["state"] == "kept"
        ]
        assert kept
        assert "four" in kept[0]
        assert "what is two" not in "".join(kept)
        assert shown["preview"]["review"] is None
        assert daemon.stop("run") == 0


def test_train_now_does_not_get_past_the_review(tmp_path: Path) -> None:
    """With and without `--wait` it says what the run waits for; so do status and, even without a daemon, why."""
    settings = SETTINGS.replace("BASE", str(tmp_path / "no-model")).replace("count(6)", "manual()")
    with honed(tmp_path, settings) as daemon:
        daemon.start("run")

        def said(*arguments: str) -> subprocess.CompletedProcess[str]:
            command = [sys.executable, "-m", "honed", *arguments, "--config", str(daemon.config)]
            return subprocess.run(command, capture_output=True, text=True, timeout=60)

        done = said("train-now")
        assert (done.returncode, "waits for a review" in done.stdout) == (0, True), done.stderr
        assert "`honed review approve` lets it run" in done.stdout
        done = said("train-now", "--wait")
        assert (done.returncode, "waits for a review" in done.stderr) == (1, True), done.stderr
        [waiting] = daemon.status()["reviews"]
        assert (waiting["reason"], waiting["approved_by"]) == ("train-now", None)
        done = said("status")
        assert f"review      run {waiting['run_id']} (0 episodes) waits since" in done.stdout
        waits = f"run {waiting['run_id']} waits for a review: `honed review`"
        running = json.loads(said("why", "--json").stdout)
        assert daemon.stop("run") == 0
        alone = json.loads(said("why", "--json").stdout)
        for found in (running, alone):
            assert (found["prospect"], found["fires_at"]) == ("held", None)
            assert found["waits_for"][0] == waits
        assert "fires      not before that run has ended" in said("why").stdout
