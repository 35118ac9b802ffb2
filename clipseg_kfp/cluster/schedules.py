"""Recurring runs: made once by name, changed in place as far as the API can, replaced safely where it cannot.

The v2beta1 API makes, lists, enables, disables and deletes recurring runs; it has no call that changes one. A
change is therefore a replacement: the new one is made disabled and says in its description which one it
replaces, then the old one is deleted, then the new one enabled. At no moment do both start runs. Whoever is cut
off in between applies again: the mark tells what is left to do. Names need not be unique for the backend; two
schedules of one name that are no such pair are an error here, and nothing is deleted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from clipseg_kfp.cluster.api import Api, named
from clipseg_kfp.cluster.errors import ConflictError, NotFoundError
from clipseg_kfp.cluster.timing import in_words
from clipseg_kfp.errors import ParameterError

MOST_AT_ONCE = 10  # the backend's own bound
_REPLACES = "Replaces "


@dataclass
class Schedule:
    """A recurring run on the cluster.

    Attributes:
        api: the backend.
        data: ``V2beta1RecurringRun`` as last read.
    """

    api: Api = field(repr=False)
    data: Any = field(repr=False)

    @property
    def id(self) -> str:
        """Its ID; another one after every replacement."""
        return str(self.data.recurring_run_id)

    @property
    def name(self) -> str:
        """Its name."""
        return str(self.data.display_name)

    @property
    def enabled(self) -> bool:
        """Whether it starts runs."""
        return str(self.data.status or "") == "ENABLED" or (not self.data.status and self.data.mode == "ENABLE")

    @property
    def when(self) -> str:
        """Its cron expression or interval."""
        return in_words(self.data.trigger)

    @property
    def catch_up(self) -> bool:
        """Whether missed starts are made up for."""
        return not self.data.no_catchup

    @property
    def parameters(self) -> dict[str, Any]:
        """The parameters that its runs are given."""
        config = self.data.runtime_config
        return dict((config.parameters if config else None) or {})

    @property
    def url(self) -> str:
        """The recurring run in the Kubeflow UI."""
        return f"{self.api.login.links}/#/recurringrun/details/{self.id}"


@dataclass(frozen=True)
class Applied:
    """What applying a schedule did.

    Attributes:
        action: ``created``, ``replaced``, ``enabled``, ``disabled`` or ``unchanged``.
        schedule: as it is now.
    """

    action: str
    schedule: Schedule


def listed(api: Api, namespace: str, name: str = "") -> Iterator[Schedule]:
    """All schedules of a namespace, or those of one name."""
    more = {"filter": named(name)} if name else {}
    for one in api.pages(
        api.recurring_runs.recurring_run_service_list_recurring_runs,
        "recurring_runs",
        namespace=namespace,
        sort_by="created_at desc",
        **more,
    ):
        if not name or one.display_name == name:
            yield Schedule(api, one)


def find(api: Api, namespace: str, name: str) -> Schedule:
    """A schedule by name or ID.

    Raises:
        NotFoundError: there is none.
        ConflictError: several have the name.
    """
    current, replaced = _pair(list(listed(api, namespace, name)), name)
    if replaced is not None:
        return replaced  # its replacement was cut off: until that is done, this one counts
    if current is not None:
        return current
    for one in listed(api, namespace):
        if one.id == name:
            return one
    raise NotFoundError(f"There is no schedule '{name}'.", "See 'clipseg-kfp schedule list'.")


def check(
    *,
    cron: str = "",
    every: int = 0,
    start: datetime | None = None,
    end: datetime | None = None,
    max_concurrency: int = 1,
    **_: Any,
) -> None:
    """Checks what the backend would refuse.

    Raises:
        ParameterError: neither or both of cron and interval, a concurrency out of bounds, an end before the start.
    """
    if bool(cron) == bool(every):
        raise ParameterError("A schedule needs either a cron expression or an interval.", "Give --cron or --every.")
    if not 1 <= max_concurrency <= MOST_AT_ONCE:
        raise ParameterError(f"Of a schedule, 1 to {MOST_AT_ONCE} runs go on at once, not {max_concurrency}.")
    if start and end and end <= start:
        raise ParameterError(f"The schedule ends ({end.isoformat()}) before it starts ({start.isoformat()}).")


def body(
    name: str,
    *,
    experiment: str,
    pipeline_id: str,
    version_id: str,
    parameters: dict[str, Any],
    cron: str = "",
    every: int = 0,
    start: datetime | None = None,
    end: datetime | None = None,
    catch_up: bool = False,
    max_concurrency: int = 1,
    enabled: bool = True,
    service_account: str = "",
    pipeline_root: str = "",
    namespace: str = "",
) -> Any:
    """Describes a schedule as the API wants it; see :meth:`clipseg_kfp.cluster.Client.schedule`.

    Raises:
        ParameterError: neither or both of cron and interval, or a concurrency that the backend refuses.
    """
    import kfp_server_api as server

    check(cron=cron, every=every, start=start, end=end, max_concurrency=max_concurrency)
    if cron:
        trigger = server.V2beta1Trigger(
            cron_schedule=server.V2beta1CronSchedule(cron=cron, start_time=start, end_time=end)
        )
    else:
        trigger = server.V2beta1Trigger(
            periodic_schedule=server.V2beta1PeriodicSchedule(
                interval_second=str(every), start_time=start, end_time=end
            )
        )
    return server.V2beta1RecurringRun(
        display_name=name,
        experiment_id=experiment,
        namespace=namespace or None,
        pipeline_version_reference=server.V2beta1PipelineVersionReference(
            pipeline_id=pipeline_id, pipeline_version_id=version_id
        ),
        runtime_config=server.V2beta1RuntimeConfig(parameters=parameters, pipeline_root=pipeline_root or None),
        trigger=trigger,
        mode="ENABLE" if enabled else "DISABLE",
        max_concurrency=str(max_concurrency),
        no_catchup=not catch_up,
        service_account=service_account or None,
    )


def changed(
    old: Schedule,
    *,
    version: Any,
    parameters: dict[str, Any],
    cron: str = "",
    every: int = 0,
    catch_up: bool | None = None,
    max_concurrency: int | None = None,
) -> Any:
    """A schedule with some things changed, as the API wants it; what is not given stays."""
    data = old.data
    was = data.trigger.cron_schedule or data.trigger.periodic_schedule
    if not cron and not every:
        cron = data.trigger.cron_schedule.cron if data.trigger.cron_schedule else ""
        every = 0 if cron else int(was.interval_second)
    return body(
        old.name,
        experiment=data.experiment_id,
        pipeline_id=version.pipeline_id,
        version_id=version.pipeline_version_id,
        parameters=parameters,
        cron=cron,
        every=every,
        start=was.start_time if _time(was.start_time) else None,
        end=was.end_time if _time(was.end_time) else None,
        catch_up=old.catch_up if catch_up is None else catch_up,
        max_concurrency=int(data.max_concurrency or 1) if max_concurrency is None else max_concurrency,
        enabled=old.enabled,
        service_account=data.service_account or "",
        pipeline_root=(data.runtime_config.pipeline_root if data.runtime_config else "") or "",
        namespace=data.namespace or "",
    )


def apply(api: Api, namespace: str, wanted: Any) -> Applied:
    """Makes the one schedule of a name be as wanted.

    Args:
        api: the backend.
        namespace: where it lives.
        wanted: from :func:`body`.

    Raises:
        ConflictError: several schedules have the name.
        ClusterError: the backend refused or failed.
    """
    current, replaced = _pair(list(listed(api, namespace, wanted.display_name)), wanted.display_name)
    if current is not None and replaced is not None:  # an earlier replacement was cut off
        if _alike(current.data, wanted):
            _delete(api, replaced.id)
            switch(current, wanted.mode == "ENABLE")
            return Applied("replaced", _again(current))
        _delete(api, current.id)  # it never ran
        current = replaced
    if current is None:
        made = api.write(
            api.recurring_runs.recurring_run_service_create_recurring_run, recurring_run=wanted
        )
        return Applied("created", Schedule(api, made))
    enable = wanted.mode == "ENABLE"
    if _alike(current.data, wanted):
        if current.enabled == enable:
            return Applied("unchanged", current)
        switch(current, enable)
        return Applied("enabled" if enable else "disabled", _again(current))
    return Applied("replaced", _replace(api, current, wanted))


def _replace(api: Api, old: Schedule, wanted: Any) -> Schedule:
    enable = wanted.mode == "ENABLE"
    wanted.mode = "DISABLE"
    wanted.description = f"{_REPLACES}{old.id}"
    _never_repeat(old.data.trigger, wanted)
    new = Schedule(
        api,
        api.write(api.recurring_runs.recurring_run_service_create_recurring_run, recurring_run=wanted),
    )
    _delete(api, old.id)
    if enable:
        switch(new, True)
    return _again(new)


def _never_repeat(old: Any, wanted: Any) -> None:
    """A new one with catch-up would make up for all starts since its start time, which the old one has made."""
    when = wanted.trigger.cron_schedule or wanted.trigger.periodic_schedule
    before = old.cron_schedule or old.periodic_schedule if old else None
    now = datetime.now(UTC)
    if not wanted.no_catchup and before and when.start_time and when.start_time == before.start_time:
        when.start_time = max(when.start_time, now)


def switch(schedule: Schedule, enabled: bool) -> bool:
    """Enables or disables; returns whether that changed anything."""
    if schedule.enabled == enabled:
        return False
    service = schedule.api.recurring_runs
    method = (
        service.recurring_run_service_enable_recurring_run
        if enabled
        else service.recurring_run_service_disable_recurring_run
    )
    schedule.api.read(method, recurring_run_id=schedule.id)
    schedule.data = _again(schedule).data
    return True


def delete(api: Api, namespace: str, name: str) -> list[Schedule]:
    """Deletes the schedule of a name or ID; its runs stay.

    Raises:
        NotFoundError: there is none.
        ConflictError: several have the name; an ID is needed.
    """
    first = find(api, namespace, name)
    doomed = [first, *(one for one in listed(api, namespace, first.name) if _replaced_by(one) == first.id)]
    for one in doomed:
        _delete(api, one.id)
    return doomed


def _delete(api: Api, recurring_run_id: str) -> None:
    try:
        api.read(
            api.recurring_runs.recurring_run_service_delete_recurring_run, recurring_run_id=recurring_run_id
        )
    except NotFoundError:
        return  # gone already, by an attempt whose answer was lost


def _again(schedule: Schedule) -> Schedule:
    data = schedule.api.read(
        schedule.api.recurring_runs.recurring_run_service_get_recurring_run, recurring_run_id=schedule.id
    )
    return Schedule(schedule.api, data)


def _pair(found: list[Schedule], name: str) -> tuple[Schedule | None, Schedule | None]:
    """The schedule of a name, and the one that it was replacing when it was cut off."""
    if len(found) > 2 or (len(found) == 2 and not _chain(found)):
        raise ConflictError(
            f"{len(found)} schedules are named '{name}': {', '.join(one.id for one in found)}.",
            "Delete all but one: clipseg-kfp schedule delete ID.",
        )
    if len(found) == 2:
        new, old = found if _replaced_by(found[0]) == found[1].id else reversed(found)
        return new, old
    return (found[0] if found else None), None


def _chain(found: list[Schedule]) -> bool:
    return _replaced_by(found[0]) == found[1].id or _replaced_by(found[1]) == found[0].id


def _replaced_by(schedule: Schedule) -> str:
    """ID of the schedule that this one replaces."""
    text = str(schedule.data.description or "")
    return text.removeprefix(_REPLACES) if text.startswith(_REPLACES) else ""


def _alike(there: Any, wanted: Any) -> bool:
    """Whether all is the same but enabled or not."""

    def facts(one: Any) -> Any:
        when = (one.trigger.cron_schedule or one.trigger.periodic_schedule) if one.trigger else None
        config, version = one.runtime_config, one.pipeline_version_reference
        return (
            one.experiment_id,
            (version.pipeline_id, version.pipeline_version_id) if version else None,
            dict((config.parameters if config else None) or {}),
            (config.pipeline_root if config else None) or "",
            in_words(one.trigger),
            _time(when.start_time if when else None),
            _time(when.end_time if when else None),
            int(one.max_concurrency or 0),
            bool(one.no_catchup),
        )

    same_account = not wanted.service_account or there.service_account == wanted.service_account
    return bool(facts(there) == facts(wanted) and same_account)


def _time(value: datetime | None) -> float | None:
    if value is None or value.year <= 1970:
        return None
    return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
