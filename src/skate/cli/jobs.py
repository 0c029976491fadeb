"""The commands about submitted jobs: `skate job ...`."""

from __future__ import annotations

import contextlib
import json
import shlex
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from skate.cli.standing import json_object

if TYPE_CHECKING:
    from skate.job_submission import JobStatus, JobSubmissionClient

address_option = click.option("--address", help="A hub's name, folder or socket (default: the newest hub).")


@contextlib.contextmanager
def client_of(address: str | None) -> Iterator[JobSubmissionClient]:
    """A client; what the hub refuses ends the command with its reason."""
    from skate.job_submission import JobSubmissionClient

    try:
        yield JobSubmissionClient(address)
    except (ConnectionError, RuntimeError, ValueError, TypeError) as error:
        raise click.ClickException(str(error)) from error


@click.group(short_help="Submit jobs to a standing hub, and look after them.")
def job() -> None:
    """Commands that a standing hub runs and watches, whether or not you are there.

    \b
    Examples:
      skate job submit -- python train.py --epochs 3
      skate job list
      skate job COMMAND --help
    """


@job.command(short_help="Have a command run.")
@address_option
@click.option("--submission-id", help="A name of your own for it.")
@click.option("--job-id", help="The former name of --submission-id.")
@click.option("--runtime-env", type=click.Path(exists=True, dir_okay=False), help="A file of JSON with a runtime_env.")
@click.option("--runtime-env-json", callback=json_object, help="A runtime_env as JSON.")
@click.option("--working-dir", help="Where it runs; goes over that of the runtime_env.")
@click.option("--metadata-json", callback=json_object, help="Texts by name, as JSON, to be read back.")
@click.option("--entrypoint-num-cpus", type=float, help="CPUs that the command itself holds (default: 0).")
@click.option("--entrypoint-num-gpus", type=float, help="GPUs that the command itself holds (default: 0).")
@click.option("--entrypoint-memory", type=int, help="Bytes of memory that the command itself holds.")
@click.option("--entrypoint-resources", callback=json_object, help="Further resources that it holds, as JSON.")
@click.option("--entrypoint-label-selector", callback=json_object, help="Labels of the node that may run it, as JSON.")
@click.option("--no-wait", is_flag=True, help="Return at once, without its output.")
@click.argument("entrypoint", nargs=-1, required=True, type=click.UNPROCESSED)
def submit(
    address: str | None,
    submission_id: str | None,
    job_id: str | None,
    runtime_env: str | None,
    runtime_env_json: dict[str, Any] | None,
    working_dir: str | None,
    metadata_json: dict[str, str] | None,
    no_wait: bool,
    entrypoint: tuple[str, ...],
    **held: Any,
) -> None:
    """Have ENTRYPOINT run by a standing hub, in whose session `init()` then is.

    Shows what the job writes until it has ended, and exits with 0 if it succeeded and 1 if not.
    Ctrl-C ends only the showing.

    \b
    Examples:
      skate job submit -- python train.py --epochs 3
      skate job submit --no-wait --working-dir . -- python train.py
    """
    if runtime_env and runtime_env_json:
        raise click.UsageError("give --runtime-env or --runtime-env-json, not both")
    environment = dict(runtime_env_json or {})
    if runtime_env:
        with open(runtime_env, encoding="utf-8") as file:
            try:
                environment = json.load(file)
            except ValueError as error:
                raise click.UsageError(f"{runtime_env} is no JSON: {error}") from None
    if working_dir:
        environment["working_dir"] = working_dir
    with client_of(address) as client:
        name = client.submit_job(
            entrypoint=shlex.join(entrypoint) if len(entrypoint) > 1 else entrypoint[0],
            submission_id=submission_id or job_id,
            runtime_env=environment or None,
            metadata=metadata_json,
            **held,
        )
        click.echo(f"Job {name} is submitted; see `skate job status {name}`, `logs {name}`, `stop {name}`.")
        if not no_wait:
            end_with(follow(client, name))


def follow(client: JobSubmissionClient, name: str) -> JobStatus:
    """Show what a job writes until it has ended; its status then."""
    import asyncio

    async def show() -> None:
        async for text in client.tail_job_logs(name):
            click.echo(text, nl=False)

    asyncio.run(show())
    return client.get_job_status(name)


def end_with(status: JobStatus) -> None:
    """Say how a job ended, with the exit code for it."""
    click.echo(f"The job has ended: {status}")
    if status != "SUCCEEDED":
        sys.exit(1)


@job.command(name="list", short_help="List all jobs.")
@address_option
@click.option("--json", "as_json", is_flag=True, help="Print them as JSON.")
def list_jobs(address: str | None, as_json: bool) -> None:
    """List submitted jobs, and programs that attached by themselves."""
    from dataclasses import asdict

    from skate.cli.table import table

    with client_of(address) as client:
        found = client.list_jobs()
    if as_json:
        click.echo(json.dumps([asdict(row) for row in found], indent=2, default=str))
        return
    rows = [
        (row.submission_id or row.job_id or "", str(row.type), str(row.status), row.entrypoint[:60]) for row in found
    ]
    click.echo(table(("job", "type", "status", "command"), rows))


@job.command(short_help="Show how far a job is.")
@address_option
@click.argument("job_id")
def status(address: str | None, job_id: str) -> None:
    """Show the status of a job, and what there is to say about it."""
    with client_of(address) as client:
        info = client.get_job_info(job_id)
    click.echo(f"{info.status}: {info.message}")


@job.command(short_help="Show what a job has written.")
@address_option
@click.option("-f", "--follow", "following", is_flag=True, help="Go on until it has ended.")
@click.argument("job_id")
def logs(address: str | None, following: bool, job_id: str) -> None:
    """Show the standard output and error of a job."""
    with client_of(address) as client:
        if following:
            follow(client, job_id)
        else:
            click.echo(client.get_job_logs(job_id), nl=False)


@job.command(short_help="End a job.")
@address_option
@click.option("--no-wait", is_flag=True, help="Return at once.")
@click.argument("job_id")
def stop(address: str | None, no_wait: bool, job_id: str) -> None:
    """End the processes of a job: SIGTERM, and SIGKILL after 3 seconds."""
    with client_of(address) as client:
        if not client.stop_job(job_id):
            click.echo(f"It was over already: {client.get_job_status(job_id)}")
            return
        while not no_wait and not client.get_job_status(job_id).is_terminal():
            time.sleep(0.1)
        click.echo("The job is being ended." if no_wait else f"The job has ended: {client.get_job_status(job_id)}")


@job.command(short_help="Forget a job that is over, and delete its log.")
@address_option
@click.argument("job_id")
def delete(address: str | None, job_id: str) -> None:
    """Forget a job that is over, and delete its log."""
    with client_of(address) as client:
        client.delete_job(job_id)
    click.echo(f"Job {job_id} is deleted.")


COMMANDS = (job,)
