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

from clipseg_kfp.client.api import Api, named
from clipseg_kfp.client.durations import in_words
from clipseg_kfp.client.errors import ClusterError, ConflictError, NotFoundError
from clipseg_kfp.client.schedule_forms import alike, is_enabled

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
        return is_enabled(self.data)

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
    more: dict[str, Any] = {"filter": named(name)} if name else {}
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


def apply(api: Api, namespace: str, wanted: Any) -> Applied:
    """Makes the one schedule of a name be as wanted.

    Args:
        api: the backend.
        namespace: where it lives.
        wanted: from :func:`clipseg_kfp.client.schedule_forms.form`.

    Raises:
        ConflictError: several schedules have the name.
        ClusterError: the backend refused or failed.
    """
    current, replaced = _pair(list(listed(api, namespace, wanted.display_name)), wanted.display_name)
    if current is not None and replaced is not None:  # an earlier replacement was cut off
        if alike(current.data, wanted):
            _delete(api, replaced.id)
            switch(current, wanted.mode == "ENABLE")
            return Applied("replaced", _again(current))
        _delete(api, current.id)  # it never ran
        current = replaced
    if current is None:
        made = api.write(api.recurring_runs.recurring_run_service_create_recurring_run, recurring_run=wanted)
        return Applied("created", Schedule(api, made))
    enable = wanted.mode == "ENABLE"
    if alike(current.data, wanted):
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
        try:
            switch(new, True)
        except ClusterError as error:
            raise ClusterError(
                f"The schedule '{new.name}' is replaced, but not enabled yet: {error.message}",
                f"Enable it: clipseg-kfp schedule enable {new.id}",
            ) from error
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
