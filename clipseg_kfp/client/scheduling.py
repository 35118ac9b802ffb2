"""The client's calls for recurring runs."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from clipseg_kfp.client import schedules
from clipseg_kfp.client.durations import cron as six_fields
from clipseg_kfp.client.durations import seconds
from clipseg_kfp.client.errors import NotFoundError
from clipseg_kfp.client.runs import experiment_id
from clipseg_kfp.client.schedule_forms import changed, check_times, form
from clipseg_kfp.client.schedules import Applied, Schedule
from clipseg_kfp.client.session import DEFAULT_EXPERIMENT, DEFAULT_PIPELINE, Session, SiteSettings
from clipseg_kfp.client.upload import named_version
from clipseg_kfp.client.values import checked_values
from clipseg_kfp.errors import ParameterError


class Scheduling(Session):
    """A session that can schedule."""

    def schedule(
        self,
        name: str,
        pipeline: str = DEFAULT_PIPELINE,
        parameters: Mapping[str, Any] | None = None,
        *,
        cron: str = "",
        every: str | int = "",
        start: datetime | None = None,
        end: datetime | None = None,
        catch_up: bool = False,
        max_concurrency: int = 1,
        enabled: bool = True,
        image: str = "",
        settings: SiteSettings = None,
        variant: str = "",
        gpu_image: str = "",
        version: str = "",
        experiment: str = DEFAULT_EXPERIMENT,
        service_account: str = "",
        pipeline_root: str = "",
    ) -> Applied:
        """Makes the schedule of a name be so: creates it, changes it, or leaves it as it is.

        Args:
            name: of the schedule.
            pipeline: as for :meth:`run`. The schedule keeps the version that is the newest now.
            parameters: as for :meth:`run`.
            cron: five fields as in crontab, or six with seconds first; UTC unless the cluster says otherwise.
            every: instead, seconds or a duration such as ``6h``; the first run comes one interval after the start.
            start: no run before; empty starts to count now.
            end: no run after.
            catch_up: make up for starts that were missed, one run each. Every run takes all new images,
                so there is nothing to make up for: leave it off.
            max_concurrency: runs at once, 1 to 10.
            enabled: whether it starts runs.
            image: as for :meth:`run`.
            settings: as for :meth:`run`.
            variant: as for :meth:`run`.
            gpu_image: as for :meth:`run`.
            version: as for :meth:`run`.
            experiment: of its runs.
            service_account: of their pods.
            pipeline_root: as for :meth:`run`.

        Raises:
            ParameterError: a parameter, the time or the concurrency does not fit.
            ConflictError: several schedules have the name.
        """
        return self.schedule_version(
            name,
            self.version(
                pipeline,
                image=image,
                version=version,
                settings=settings,
                variant=variant,
                gpu_image=gpu_image,
            ),
            parameters,
            cron=cron,
            every=every,
            start=start,
            end=end,
            catch_up=catch_up,
            max_concurrency=max_concurrency,
            enabled=enabled,
            experiment=experiment,
            service_account=service_account,
            pipeline_root=pipeline_root,
        )

    def schedule_version(
        self,
        name: str,
        version: Any,
        parameters: Mapping[str, Any] | None = None,
        *,
        cron: str = "",
        every: str | int = "",
        experiment: str = DEFAULT_EXPERIMENT,
        **more: Any,
    ) -> Applied:
        """Schedules what :meth:`version` returned; arguments as for :meth:`schedule`."""
        interval = seconds(str(every), "every") if every else 0
        when = six_fields(cron) if cron else ""
        values = checked_values(version, _repeatable(parameters))
        check_times(cron=when, every=interval, **more)
        wanted = form(
            name,
            experiment=experiment_id(self.api, experiment, self.namespace),
            pipeline_id=version.pipeline_id,
            version_id=version.pipeline_version_id,
            parameters=values,
            cron=when,
            every=interval,
            namespace=self.namespace,
            **more,
        )
        return schedules.apply(self.api, self.namespace, wanted)

    def update_schedule(
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
            version: from :meth:`version`; empty keeps the schedule's own.
            cron: as for :meth:`schedule`.
            every: as for :meth:`schedule`.
            start: as for :meth:`schedule`.
            end: as for :meth:`schedule`.
            catch_up: as for :meth:`schedule`.
            max_concurrency: as for :meth:`schedule`.

        Raises:
            ParameterError: as for :meth:`schedule`.
        """
        old = self.get_schedule(name)
        version = version or self.scheduled_version(old)
        values = checked_values(version, _repeatable({**old.parameters, **(parameters or {})}))
        wanted = changed(
            old.data,
            version=version,
            parameters=values,
            cron=six_fields(cron) if cron else "",
            every=seconds(str(every), "every") if every else 0,
            start=start,
            end=end,
            catch_up=catch_up,
            max_concurrency=max_concurrency,
            namespace=self.namespace,
        )
        return schedules.apply(self.api, self.namespace, wanted)

    def scheduled_version(self, schedule: Schedule, version: str = "") -> Any:
        """The version that a schedule runs, or the one of that name of the same pipeline.

        Raises:
            NotFoundError: it was deleted, or the schedule has none.
        """
        reference = schedule.data.pipeline_version_reference
        if not reference or not reference.pipeline_version_id:
            raise NotFoundError(
                f"The schedule '{schedule.name}' runs no uploaded version.", "Name one with --pipeline."
            )
        if version:
            return named_version(self.api, reference.pipeline_id, version)
        return self.api.read(
            self.api.pipelines.pipeline_service_get_pipeline_version,
            pipeline_id=reference.pipeline_id,
            pipeline_version_id=reference.pipeline_version_id,
        )

    def schedules(self) -> list[Schedule]:
        """All schedules, the newest first."""
        return list(schedules.listed(self.api, self.namespace))

    def get_schedule(self, name: str) -> Schedule:
        """A schedule by name or ID."""
        return schedules.find(self.api, self.namespace, name)

    def enable_schedule(self, name: str, enabled: bool = True) -> bool:
        """Enables or disables a schedule; returns whether that changed anything."""
        return schedules.switch(self.get_schedule(name), enabled)

    def delete_schedule(self, name: str) -> None:
        """Deletes a schedule; its runs stay."""
        schedules.delete(self.api, self.namespace, name)


def _repeatable(parameters: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """The parameters of every run of a schedule.

    Raises:
        ParameterError: they name the run; the second would end, as there is one of that name.
    """
    given = parameters or {}
    if given.get("run_id"):
        raise ParameterError(
            f"A schedule cannot have run_id: its second run would find '{given['run_id']}' in use.",
            "Leave run_id out: every run is named after Kubeflow's own ID.",
        )
    return given
