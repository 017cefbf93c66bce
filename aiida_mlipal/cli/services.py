"""The daemon and the broker: do they run, and does anybody work on what is queued? With the command that mends it."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ('Services', 'probe')


@dataclass(frozen=True, kw_only=True)
class Services:
    """State of the daemon of the loaded profile. ``problems`` holds one sentence each, with what to type next."""

    running: bool
    workers: int
    slots: int  #: processes that all workers together can hold
    active: int  #: processes of the profile that are not finished
    pending: int | None  #: tasks in the broker's queue that no worker has taken; None where the broker does not tell
    problems: tuple[str, ...]


def probe() -> Services:
    """Ask the daemon and the broker of the loaded profile how they are."""
    from aiida.brokers.zeromq.broker import ZeromqBroker
    from aiida.engine.daemon.client import DaemonException, get_daemon_client
    from aiida.manage import get_config_option, get_manager

    active = _count_active()
    broker = get_manager().get_broker()
    if broker is None:
        problem = (
            'this profile has no broker, so nothing can be submitted: run `aiida-mlipal quickstart --profile NEW`.'
        )
        return Services(running=False, workers=0, slots=0, active=active, pending=None, problems=(problem,))
    client = get_daemon_client()
    if not client.is_daemon_running:
        problem = 'the daemon is not running: run `verdi daemon start`.'
        return Services(running=False, workers=0, slots=0, active=active, pending=None, problems=(problem,))
    problems = []
    try:
        workers = client.get_number_of_workers()
    except DaemonException as exception:
        workers = 0
        problems.append(f'the daemon does not answer ({exception}): run `verdi daemon restart`.')
    slots = workers * int(get_config_option('daemon.worker_process_slots'))
    pending = None
    if isinstance(broker, ZeromqBroker):
        state = broker.probe_service_status()
        pending, processing = int(state.get('pending_tasks') or 0), int(state.get('processing_tasks') or 0)
        if not state.get('connected'):
            problems.append('the broker is not running: run `verdi daemon restart`.')
        elif pending and not processing:
            # After a SIGKILL of daemon and workers, `verdi daemon start` says OK but takes up none of the old tasks.
            problems.append(f'{pending} tasks are pending and nobody processes them: run `verdi daemon restart`.')
    if workers and active > 0.9 * slots:
        problems.append(
            f'{active} processes for {slots} slots: parents and children may wait for each other for ever; '
            'run `verdi daemon incr 1`.'
        )
    if not workers and not problems:
        problems.append('the daemon has no workers: run `verdi daemon incr 1`.')
    return Services(
        running=True, workers=workers, slots=slots, active=active, pending=pending, problems=tuple(problems)
    )


def _count_active() -> int:
    from aiida.orm import ProcessNode, QueryBuilder

    states = {'in': ('created', 'waiting', 'running')}
    count: int = QueryBuilder().append(ProcessNode, filters={'attributes.process_state': states}).count()
    return count
