"""Statements through the page: one after the other, with progress, Stop, estimates, and errors in words."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import obeql
from obeql.web.events import Changes, job_events
from obeql.web.worker import BusyError, Worker
from tests.web.conftest import decoded

#: Takes a while: thousands of windows, a few at a time.
LONG = "EXPLAIN OCCLUDE scan1 USING net WITH patch=3 stride=1 batch=4 NO REUSE"


def begun(site: Any, text: str = LONG) -> int:
    """Hand a statement in and wait until it has computed something."""
    job_id = int(site.post("/api/jobs", 201, text=text)["job_id"])
    job = site.page.worker.job(job_id)
    until = time.monotonic() + 60
    while not job.live.map and not job.ended:
        assert time.monotonic() < until
        time.sleep(0.005)
    assert job.state == "running", job.outcome
    return job_id


def test_a_statement_runs_to_its_map(site: Any) -> None:
    job = site.run("EXPLAIN OCCLUDE scan1 USING net WITH patch=8 stride=8 score=log_odds INTO first")
    assert job["state"] == "done" and job["outcome"]["kind"] == "maps" and job["outcome"]["n_maps"] == 1
    assert job["outcome"]["estimate"]["windows"] == 64
    run = site.get(f"/api/runs/{job['outcome']['run_id']}")
    assert run["run_name"] == "first" and run["query"].startswith("EXPLAIN OCCLUDE scan1")
    key = run["maps"][0]["key"]
    frame = decoded(site.client.get(f"/api/runs/{run['run_id']}/maps/{key}/planes").content)
    heat = site.session.run("first")[0]
    assert np.array_equal(frame["importance"], heat.importance)
    assert np.array_equal(frame["scores"], heat.scores)
    assert np.array_equal(frame["top_class"], heat.top_class)
    facts = site.get(f"/api/runs/{run['run_id']}/maps/{key}")
    assert {name: frame[name] for name in facts} == facts
    assert site.get(f"/api/runs/{run['run_id']}/maps/first") == facts


def test_other_statements_yield_tables_plans_and_messages(site: Any) -> None:
    table = site.run("PREDICT scans USING net FOR TOP 1")["outcome"]
    assert table["kind"] == "table" and len(table["rows"]) == 3
    plan = site.run("PLAN EXPLAIN OCCLUDE scan1 USING net WITH patch=8")["outcome"]
    assert plan["kind"] == "plan" and plan["estimate"]["windows"] == 29 * 29
    assert site.run("DROP IMAGES scans")["outcome"] == {"kind": "message", "text": "images scans dropped"}
    script = site.run("SELECT 1 AS one; SELECT 2 AS two")["outcome"]
    assert script["columns"] == ["two"]


def test_a_mistake_has_its_place(site: Any) -> None:
    job = site.run("EXPLAIN OCCLUDE scan1 USING nett WITH patch=8")
    assert job["state"] == "failed"
    assert (job["outcome"]["line"], job["outcome"]["column"]) == (1, 29)
    assert "Did you mean 'net'?" in job["outcome"]["message"] and "^" in job["outcome"]["context"]
    assert job["outcome"]["family"] == "UnknownNameError"


def test_progress_comes_as_events_with_the_map_so_far(site: Any) -> None:
    job_id = int(site.post("/api/jobs", 201, text=LONG)["job_id"])
    seen, unknown = [], []
    with site.client.stream("GET", f"/api/jobs/{job_id}/events") as events:
        assert events.headers["content-type"].startswith("text/event-stream")
        for line in events.iter_lines():
            if line.startswith("data: "):
                seen.append(json.loads(line[6:]))
                frame = site.client.get(f"/api/jobs/{job_id}/map")
                if frame.status_code == 200:
                    unknown.append(int(np.isnan(decoded(frame.content)["importance"]).sum()))
    done = [each["progress"]["done"] for each in seen if each["progress"]]
    assert len(done) >= 4 and done == sorted(done)
    assert seen[-1]["state"] == "done"
    assert [each["version"] for each in seen] == sorted({each["version"] for each in seen})
    assert len(set(unknown)) >= 3 and unknown == sorted(unknown, reverse=True)  # NaN where not computed yet, no zero


def test_cells_that_are_stored_are_on_the_live_map_from_the_beginning(site: Any) -> None:
    site.run("EXPLAIN OCCLUDE scan1 USING net WITH patch=3 stride=4")
    job_id = begun(site, LONG.replace(" NO REUSE", ""))
    site.post(f"/api/jobs/{job_id}/stop")
    job = site.ended(job_id)
    frame = decoded(site.client.get(f"/api/jobs/{job_id}/map").content)
    known = site.session.run(1)[0]
    rows, cols = (
        np.searchsorted(frame[axis], starts) for axis, starts in (("tops", known.tops), ("lefts", known.lefts))
    )
    assert np.allclose(frame["importance"][np.ix_(rows, cols)], known.importance, atol=1e-6)
    assert job["progress"]["reused"] >= known.importance.size and np.isnan(frame["importance"]).any()


def test_events_resume_after_the_last_that_was_seen(site: Any) -> None:
    job = site.run("EXPLAIN OCCLUDE scan1 USING net WITH patch=32 stride=32")
    path = f"/api/jobs/{job['job_id']}/events"
    assert site.client.get(path, headers={"last-event-id": str(job["version"])}).text.count("event: job") == 0
    again = site.client.get(path, headers={"last-event-id": str(job["version"] - 1)}).text
    assert again.count("event: job") == 1 and f"id: {job['version']}\n" in again


def test_stop_ends_a_run_and_leaves_the_map_so_far(site: Any) -> None:
    job_id = begun(site)
    site.post(f"/api/jobs/{job_id}/stop")
    job = site.ended(job_id)
    assert job["state"] == "stopped" and job["progress"]["done"] < job["progress"]["total"]
    frame = decoded(site.client.get(f"/api/jobs/{job_id}/map").content)
    assert np.isfinite(frame["importance"]).any() and np.isnan(frame["importance"]).any()
    assert site.get("/api/runs")["runs"] == [] or site.get("/api/runs")["runs"][0]["status"] == "interrupted"
    assert site.run("SELECT 1")["state"] == "done"


def test_one_after_the_other_and_one_that_waits_can_be_stopped(site: Any) -> None:
    first = begun(site)
    second, third = (int(site.post("/api/jobs", 201, text=f"SELECT {n}")["job_id"]) for n in (2, 3))
    assert site.get(f"/api/jobs/{second}")["state"] == "waiting"
    assert site.post(f"/api/jobs/{second}/stop")["state"] == "stopped"
    site.post(f"/api/jobs/{first}/stop")
    assert site.ended(third)["state"] == "done"
    assert [job["state"] for job in site.get("/api/jobs")["jobs"]] == ["done", "stopped", "stopped"]


def test_a_browser_that_is_gone_stops_nothing_and_leaves_nothing(site: Any) -> None:
    job_id = begun(site)
    for _ in range(5):
        with site.client.stream("GET", f"/api/jobs/{job_id}/events") as events:
            next(events.iter_lines())
    assert site.get(f"/api/jobs/{job_id}")["state"] == "running"
    site.post(f"/api/jobs/{job_id}/stop")
    assert site.ended(job_id)["state"] == "stopped"


def test_lists_and_sql_go_on_while_a_statement_runs(site: Any) -> None:
    site.run("EXPLAIN OCCLUDE scan2 USING net WITH patch=32 stride=32 INTO before")
    job_id = begun(site)
    assert site.get("/api/runs")["total"] >= 1
    assert site.post("/api/sql", sql="SELECT count(*) FROM heatmaps")["rows"][0][0] >= 1
    assert site.client.get("/api/runs/1/maps/first/planes").status_code == 200
    assert site.post("/api/plan", text="EXPLAIN OCCLUDE scan1 USING net") == {"busy": True}
    image = site.get("/api/images")["images"][0]["image_id"]
    assert site.post("/api/probe", model="net", image=image) == {"busy": True}
    assert site.get(f"/api/jobs/{job_id}")["state"] == "running"
    site.post(f"/api/jobs/{job_id}/stop")
    site.ended(job_id)


def test_closing_the_page_stops_what_runs_and_leaves_the_session(site: Any) -> None:
    job_id = begun(site)
    waiting = site.page.worker.submit("SELECT 1")
    site.page.close()
    assert site.page.worker.job(job_id).state == "stopped" and waiting.state == "stopped"
    with pytest.raises(BusyError, match="being closed"):
        site.page.worker.submit("SELECT 1")
    assert site.session.execute("SELECT 42").fetchall() == [(42,)]


def test_a_plan_estimates_before_anything_runs(site: Any) -> None:
    found = site.post("/api/plan", text="EXPLAIN OCCLUDE scan1 USING net WITH patch=8 stride=8")
    assert found["estimate"]["windows"] == 64 and found["estimate"]["stored"] == 0
    assert found["estimate"]["seconds"] > 0 and found["estimate"]["memory_bytes"] > 0
    assert "Physical plan" in found["text"] or "IncrementalForward" in found["text"] or "DenseForward" in found["text"]
    site.run("EXPLAIN OCCLUDE scan1 USING net WITH patch=8 stride=8")
    finer = site.post("/api/plan", text="EXPLAIN OCCLUDE scan1 USING net WITH patch=8 stride=4")
    assert finer["estimate"]["stored"] == 64 and finer["estimate"]["windows"] == 225
    wrong = site.post("/api/plan", 400, text="SELECT 1")
    assert "Only EXPLAIN OCCLUDE has a plan" in wrong["error"]


def test_an_approximate_run_states_its_bound_level_by_level(site: Any) -> None:
    job = site.run("EXPLAIN OCCLUDE scan1 USING net WITH patch=8 stride=2 APPROX 0.5")
    assert job["state"] == "done"
    run_id = job["outcome"]["run_id"]
    facts = site.get(f"/api/runs/{run_id}/maps/first")
    heat = site.session.run(run_id)[0]
    assert facts["bound"] == (heat.bound if heat.approx else None) and facts["quality"] == heat.quality


def test_texts_that_are_no_statements_get_a_sentence(site: Any) -> None:
    for body in ({"text": 3}, {}, []):
        answer = site.client.post("/api/jobs", json=body)
        assert answer.status_code == 400 and answer.json()["error"]
    answer = site.client.post("/api/jobs", content=b"{", headers={"content-type": "application/json"})
    assert answer.status_code == 400 and "no JSON" in answer.json()["error"]
    answer = site.client.post("/api/jobs", content=b'{"text": "' + b"x" * 3_000_000 + b'"}')
    assert answer.status_code == 400 and "at most 2 MB" in answer.json()["error"]
    assert site.client.get("/api/jobs/999").status_code == 404
    assert site.client.get("/api/runs/999").status_code == 404
    assert site.client.get("/api/runs/1/maps/no-key").status_code == 404


def test_a_queue_has_an_end(make_site: Callable[..., Any]) -> None:
    with obeql.connect() as session:
        site = make_site(session)
        held, free = threading.Event(), threading.Event()
        site.page.worker.ask(lambda: (held.set(), free.wait(30)))
        held.wait(30)
        for _ in range(50):
            site.post("/api/jobs", 201, text="SELECT 1")
        assert "wait already" in site.post("/api/jobs", 409, text="SELECT 1")["error"]
        free.set()
        site.page.close()


def test_a_question_that_fails_fails_alone(make_site: Callable[..., Any]) -> None:
    with obeql.connect() as session:
        worker: Worker = make_site(session).page.worker
        asked = worker.ask(lambda: 1 // 0)
        with pytest.raises(ZeroDivisionError):
            asked.result(30)
        assert worker.ask(lambda: 7).result(30) == 7
        worker.close()


def test_closing_ends_a_question_that_takes_long(make_site: Callable[..., Any]) -> None:
    with obeql.connect() as session:
        site = make_site(session)
        began = threading.Event()

        def measuring() -> None:
            began.set()
            while True:
                session._context.cancellation.check()
                time.sleep(0.01)

        asked, waiting = site.page.worker.ask(measuring), site.page.worker.ask(lambda: 1, patient=True)
        began.wait(30)
        site.page.close()
        assert isinstance(asked.exception(30), obeql.ObeqlError) and waiting.cancelled()


def test_a_stream_ends_when_the_server_does() -> None:
    import asyncio

    from obeql.web.worker import Job

    async def listen() -> list[str]:
        changes = Changes()
        changes.begin()
        job = Job(1, "SELECT 1")
        asyncio.get_running_loop().call_later(0.05, changes.close)
        return [event async for event in job_events(job, changes, 0)]

    events = asyncio.run(listen())
    assert len(events) == 2 and events[1].startswith("id: 1\n")
