"""Serves `run` and `republish` messages: every task of a run is answered, whatever happens."""

from __future__ import annotations

from frazil_engine import outcomes
from frazil_engine.errors import Failure, secret_values
from frazil_engine.opening import open_plan
from frazil_engine.outcomes import Answer, Outcome, Staged, fail, settle, write_task
from frazil_engine.protocol import Republish, Run, Sweep, Task
from frazil_engine.session import Clock, Decision, Session, set_seeds, working_directory
from frazil_engine.user_code import last_exception


def serve_runs(session: Session, runs: list[Run]) -> None:
    """Answers every task of the runs, which came together, in their order."""
    # They are of one job.
    with working_directory(session, runs[0].cwd):
        for place, run in enumerate(runs):
            if place == 0 or run.tasks[0].task_id in session.waiting:
                serve_run(session, run)
            else:
                send_answer(session, fail(run.tasks[0], ABANDONED, set()), Clock().usage())


ABANDONED = Failure("stale_attempt", "This attempt lost the task before it began.")


def serve_run(session: Session, run: Run) -> None:
    session.forget_seeds(run.seed)
    try:
        serve_kind(session, run)
    finally:
        # Its traceback holds the data of the functions in it.
        last_exception.forget()
        session.put_back()


def serve_kind(session: Session, run: Run) -> None:
    if run.kind == "query":
        serve_query(session, run)
    else:
        # Partitioned runs are rare beside queries, and an engine starts faster without their code.
        from frazil_engine import key_runs, split_runs

        serve = split_runs.serve_split if run.kind == "split" else key_runs.serve_keys
        serve(session, run)


def serve_query(session: Session, run: Run) -> None:
    """Runs the plan once."""
    task = run.tasks[0]
    clock = Clock()
    secrets = secret_values(run.output.storage_options)
    outcome: Outcome
    with session.logs.attribute_to(task.task_id) as log:
        try:
            plan = open_plan(run, session.announce_python)
            secrets |= plan.secrets
            set_seeds(run.seed, plan.has_python)
            outcome = write_task(run, task, plan.frame, plan.has_python, log)
        except BaseException as error:
            outcome = fail(task, error, secrets)
    usage = clock.usage()
    if isinstance(outcome, Staged):
        session.channel.send({"type": "staged", "taskId": task.task_id, "manifest": outcome.manifest})
        outcome = settle(outcome, wait_for_decision(session, task), secrets, run.output.storage_options)
    send_answer(session, outcome, usage)


def wait_for_decision(session: Session, task: Task) -> str:
    """The agent answers, or ends this process: it is the one that keeps the time."""
    while True:
        event = session.events.get()
        if isinstance(event, Decision) and event.task_id == task.task_id:
            return event.verb


def send_answer(session: Session, answer: Answer, usage: dict[str, float]) -> None:
    session.channel.send({**answer.message, "usage": usage}, answer.head)


def serve_republish(session: Session, message: Republish) -> None:
    """Answers one `republish` message."""
    clock = Clock()
    with working_directory(session, message.cwd), session.logs.attribute_to(message.task.task_id):
        answer = outcomes.republish(session, message)
    send_answer(session, answer, clock.usage())


def serve_sweep(session: Session, message: Sweep) -> None:
    """Answers one `sweep` message."""
    # Rare, like partitioned runs.
    from frazil_engine import sweeping

    sweeping.serve_sweep(session, message)
