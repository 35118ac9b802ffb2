"""Recurring runs: made once by name, changed in place as far as the API can, replaced safely where it cannot.

The v2beta1 API makes, lists, enables, disables and deletes recurring runs; it has no call that changes one. A
change is therefore a replacement: the new one is made disabled and says in its description which one it
replaces, then the old one is deleted, then the new one enabled. At no moment do both start runs. Whoever is cut
off in between applies again: the mark tells what is left to do. Names need not be unique for the backend; two
schedules of one name that are no such pair are an error here, and nothing is deleted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from clipseg_kfp.client.api import Api, named
from clipseg_kfp.client.durations import cron as six_fields
from clipseg_kfp.client.durations import in_words, seconds
from clipseg_kfp.client.errors import ClusterError, ConflictError, NotFoundError
from clipseg_kfp.client.packages import Recipe
from clipseg_kfp.client.parameters import checked_values
from clipseg_kfp.client.runs import DEFAULT_EXPERIMENT, experiment_id
from clipseg_kfp.client.upload import DEFAULT_PIPELINE, named_version, read_version
from clipseg_kfp.errors import ParameterError
from clipseg_kfp.options import value_of

if TYPE_CHECKING:
    from clipseg_kfp.client.client import Client

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
        return str(self.data.status or "") == "ENABLED" or (
            not self.data.status and self.data.mode == "ENABLE"
        )

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


class Schedules:
    """The recurring runs of a namespace: ``client.schedules``."""

    def __init__(self, client: Client) -> None:
        self._client = client

    @property
    def _service(self) -> Any:
        return self._client.api.recurring_runs

    def apply(
        self,
        name: str,
        pipeline: Any = DEFAULT_PIPELINE,
        parameters: Mapping[str, Any] | None = None,
        *,
        cron: str = "",
        every: str | int = "",
        start: datetime | None = None,
        end: datetime | None = None,
        catch_up: bool = False,
        max_concurrency: int = 1,
        enabled: bool = True,
        recipe: Recipe | None = None,
        version: str = "",
        experiment: str = DEFAULT_EXPERIMENT,
        service_account: str = "",
        pipeline_root: str = "",
    ) -> Applied:
        """Creates the schedule of this name, changes it, or leaves it as it is.

        Args:
            name: of the schedule.
            pipeline: as for ``client.runs.start``. The schedule keeps the version that is the newest now.
            parameters: by name; the others keep their defaults.
            cron: five fields as in crontab, or six with seconds first; UTC unless the cluster says otherwise.
            every: instead, seconds or a duration such as ``6h``; the first run comes one interval after the start.
            start: no run before; empty starts to count now.
            end: no run after.
            catch_up: make up for missed starts, one run each. Every run takes all new images, so there is nothing
                to make up for: leave it off.
            max_concurrency: runs at once, 1 to 10.
            enabled: whether it starts runs.
            recipe: as for ``client.runs.start``.
            version: as for ``client.runs.start``.
            experiment: of its runs.
            service_account: of their pods.
            pipeline_root: where Kubeflow puts artifacts between tasks; empty takes Kubeflow's.

        Raises:
            ParameterError: a parameter, the time or the concurrency does not fit.
            ConflictError: several schedules have the name.
        """
        client = self._client
        found = client.version(pipeline, recipe, version=version)
        body = _body(
            name,
            found,
            parameters or {},
            cron=cron,
            every=every,
            start=start,
            end=end,
            catch_up=catch_up,
            max_concurrency=max_concurrency,
            enabled=enabled,
            service_account=service_account,
            pipeline_root=pipeline_root,
            namespace=client.namespace,
        )
        body.experiment_id = experiment_id(client.api, experiment, client.namespace)
        return self._apply(body)

    def update(
        self,
        name: str,
        parameters: Mapping[str, Any] | None = None,
        *,
        version: Any = None,
        cron: str = "",
        every: str | int = "",
        start: datetime | None = None,
        end: datetime | None = None,
        catch_up: bool | None = None,
        max_concurrency: int | None = None,
    ) -> Applied:
        """Changes what is given of a schedule and keeps the rest.

        Args:
            name: or ID of the schedule.
            parameters: those to change.
            version: from ``client.version``; empty keeps the schedule's own.
            cron: as for :meth:`apply`, as are all that follow.
            every: interval.
            start: no run before.
            end: no run after.
            catch_up: make up for missed starts.
            max_concurrency: runs at once.

        Raises:
            ParameterError: as for :meth:`apply`.
        """
        old = self.get(name)
        data, trigger, config = old.data, old.data.trigger, old.data.runtime_config
        was = trigger.cron_schedule or trigger.periodic_schedule
        if not cron and not every:
            cron = trigger.cron_schedule.cron if trigger.cron_schedule else ""
            every = "" if cron else str(was.interval_second)
        body = _body(
            data.display_name,
            version or self.version(old),
            {**old.parameters, **(parameters or {})},
            cron=cron,
            every=every,
            start=start or (was.start_time if _time(was.start_time) else None),
            end=end or (was.end_time if _time(was.end_time) else None),
            catch_up=old.catch_up if catch_up is None else catch_up,
            max_concurrency=int(data.max_concurrency or 1) if max_concurrency is None else max_concurrency,
            enabled=old.enabled,
            service_account=data.service_account or "",
            pipeline_root=(config.pipeline_root if config else "") or "",
            # Not the schedule's own: in single-user mode it answers with one, and refuses any.
            namespace=self._client.namespace,
        )
        body.experiment_id = data.experiment_id
        return self._apply(body)

    def version(self, schedule: Schedule, version: str = "") -> Any:
        """The pipeline version that a schedule runs, or another of the same pipeline, by name.

        Raises:
            NotFoundError: it was deleted, or the schedule has none.
        """
        reference = schedule.data.pipeline_version_reference
        if not reference or not reference.pipeline_version_id:
            raise NotFoundError(
                f"The schedule '{schedule.name}' runs no uploaded version.",
                "Name one with --pipeline.",
                code="version_not_found",
                where=schedule.name,
            )
        if version:
            return named_version(self._client.api, reference.pipeline_id, version)
        return read_version(self._client.api, reference.pipeline_id, reference.pipeline_version_id)

    def list(self) -> list[Schedule]:
        """All schedules, the newest first."""
        return [*self._pages()]

    def get(self, name: str) -> Schedule:
        """A schedule by name or ID.

        Raises:
            NotFoundError: there is none.
            ConflictError: several have the name.
        """
        current, replaced = _pair([*self._pages(name)], name)
        if found := replaced or current:  # while a replacement is not finished, the old one counts
            return found
        for one in self._pages():
            if one.id == name:
                return one
        raise NotFoundError(
            f"There is no schedule '{name}'.",
            "See 'clipseg-kfp schedule list'.",
            code="schedule_not_found",
            where=name,
        )

    def enable(self, name: str) -> bool:
        """Lets a schedule start runs; returns whether that changed anything."""
        return self._switch(self.get(name), True)

    def disable(self, name: str) -> bool:
        """Keeps a schedule from starting runs; returns whether that changed anything."""
        return self._switch(self.get(name), False)

    def delete(self, name: str) -> None:
        """Deletes the schedule of a name or ID; its runs stay.

        Raises:
            NotFoundError: there is none.
            ConflictError: several have the name; an ID is needed.
        """
        first = self.get(name)
        for one in [first, *(one for one in self._pages(first.name) if _replaced_by(one) == first.id)]:
            self._delete(one.id)

    def _pages(self, name: str = "") -> Iterator[Schedule]:
        more: dict[str, Any] = {"filter": named(name)} if name else {}
        for one in self._client.api.pages(
            self._service.recurring_run_service_list_recurring_runs,
            "recurring_runs",
            namespace=self._client.namespace,
            sort_by="created_at desc",
            **more,
        ):
            if not name or one.display_name == name:
                yield Schedule(self._client.api, one)

    def _apply(self, wanted: Any) -> Applied:
        """Makes the one schedule of a name be as described."""
        current, replaced = _pair([*self._pages(wanted.display_name)], wanted.display_name)
        enable = wanted.mode == "ENABLE"
        if current is not None and replaced is not None:  # an earlier replacement was cut off
            if _alike(current.data, wanted):
                self._delete(replaced.id)
                self._switch(current, enable)
                return Applied("replaced", self._again(current))
            self._delete(current.id)  # it never ran
            current = replaced
        if current is None:
            return Applied("created", self._create(wanted))
        if not _alike(current.data, wanted):
            return Applied("replaced", self._replace(current, wanted))
        if not self._switch(current, enable):
            return Applied("unchanged", current)
        return Applied("enabled" if enable else "disabled", current)

    def _replace(self, old: Schedule, wanted: Any) -> Schedule:
        enable = wanted.mode == "ENABLE"
        wanted.mode = "DISABLE"
        wanted.description = f"{_REPLACES}{old.id}"
        _never_repeat(old.data.trigger, wanted)
        new = self._create(wanted)
        self._delete(old.id)
        if enable:
            try:
                self._switch(new, True)
            except ClusterError as error:
                raise ClusterError(
                    f"The schedule '{new.name}' is replaced, but not enabled yet: {error.message}",
                    f"Enable it: clipseg-kfp schedule enable {new.id}",
                    code="schedule_not_enabled",
                    where=new.id,
                ) from error
        return self._again(new)

    def _create(self, body: Any) -> Schedule:
        api = self._client.api
        create = self._service.recurring_run_service_create_recurring_run
        return Schedule(api, api.write(create, recurring_run=body))

    def _switch(self, schedule: Schedule, enabled: bool) -> bool:
        if schedule.enabled == enabled:
            return False
        service = self._service
        method = (
            service.recurring_run_service_enable_recurring_run
            if enabled
            else service.recurring_run_service_disable_recurring_run
        )
        self._client.api.read(method, recurring_run_id=schedule.id)
        schedule.data = self._again(schedule).data
        return True

    def _delete(self, recurring_run_id: str) -> None:
        method = self._service.recurring_run_service_delete_recurring_run
        try:
            self._client.api.read(method, recurring_run_id=recurring_run_id)
        except NotFoundError:
            return  # already deleted, by an attempt whose answer was lost

    def _again(self, schedule: Schedule) -> Schedule:
        method = self._service.recurring_run_service_get_recurring_run
        return Schedule(schedule.api, self._client.api.read(method, recurring_run_id=schedule.id))


def _body(
    name: str,
    version: Any,
    parameters: Mapping[str, Any],
    *,
    cron: str,
    every: str | int,
    start: datetime | None,
    end: datetime | None,
    catch_up: bool,
    max_concurrency: int,
    enabled: bool,
    service_account: str,
    pipeline_root: str,
    namespace: str,
) -> Any:
    """A schedule as the API takes it, without its experiment; arguments as for :meth:`Schedules.apply`."""
    import kfp_server_api as server

    if used := value_of(parameters, "outputs.run_id"):
        raise ParameterError(
            f"A schedule cannot have outputs.run_id: its second run would find '{used}' in use.",
            "Leave it out: every run is named by Kubeflow's own ID.",
            code="run_id_of_schedule",
            where="outputs.run_id",
        )
    when = six_fields(cron) if cron else ""
    interval = seconds(str(every), "every") if every else 0
    values = checked_values(version, parameters)
    if bool(when) == bool(interval):
        raise ParameterError(
            "A schedule needs either a cron expression or an interval.",
            "Give --cron or --every.",
            code="cron_or_every",
        )
    if not 1 <= max_concurrency <= MOST_AT_ONCE:
        raise ParameterError(
            f"max_concurrency is {max_concurrency}.",
            f"Give 1 to {MOST_AT_ONCE} runs at once.",
            code="max_concurrency",
            where="max_concurrency",
        )
    if start and end and end <= start:
        raise ParameterError(
            f"The schedule ends ({end.isoformat()}) before it starts ({start.isoformat()}).",
            "Give an --end after --start.",
            code="end_before_start",
            where="end",
        )
    times = {"start_time": start, "end_time": end}
    trigger = (
        server.V2beta1Trigger(cron_schedule=server.V2beta1CronSchedule(cron=when, **times))
        if when
        else server.V2beta1Trigger(
            periodic_schedule=server.V2beta1PeriodicSchedule(interval_second=str(interval), **times)
        )
    )
    return server.V2beta1RecurringRun(
        display_name=name,
        namespace=namespace or None,
        pipeline_version_reference=server.V2beta1PipelineVersionReference(
            pipeline_id=version.pipeline_id, pipeline_version_id=version.pipeline_version_id
        ),
        runtime_config=server.V2beta1RuntimeConfig(parameters=values, pipeline_root=pipeline_root or None),
        trigger=trigger,
        mode="ENABLE" if enabled else "DISABLE",
        max_concurrency=str(max_concurrency),
        no_catchup=not catch_up,
        service_account=service_account or None,
    )


def _never_repeat(old: Any, wanted: Any) -> None:
    """A new one with catch-up would make up for all starts since its start time, which the old one has made."""
    when = wanted.trigger.cron_schedule or wanted.trigger.periodic_schedule
    before = old.cron_schedule or old.periodic_schedule if old else None
    now = datetime.now(UTC)
    if not wanted.no_catchup and before and when.start_time and when.start_time == before.start_time:
        when.start_time = max(when.start_time, now)


def _pair(found: list[Schedule], name: str) -> tuple[Schedule | None, Schedule | None]:
    """The schedule of a name, and the one that it was replacing when it was cut off."""
    if len(found) < 2:
        return (found[0] if found else None), None
    for new, old in (found, found[::-1]) if len(found) == 2 else ():
        if _replaced_by(new) == old.id:
            return new, old
    raise ConflictError(
        f"{len(found)} schedules are named '{name}': {', '.join(one.id for one in found)}.",
        "Delete all but one: clipseg-kfp schedule delete ID.",
        code="schedule_not_unique",
        where=name,
    )


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
