"""Recurring runs as the API describes them: made from what people say, changed, compared."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from clipseg_kfp.client.durations import in_words
from clipseg_kfp.errors import ParameterError

MOST_AT_ONCE = 10  # the backend's own bound


def is_enabled(data: Any) -> bool:
    """Whether a ``V2beta1RecurringRun`` starts runs."""
    return str(data.status or "") == "ENABLED" or (not data.status and data.mode == "ENABLE")


def check_times(
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
        raise ParameterError(
            "A schedule needs either a cron expression or an interval.", "Give --cron or --every."
        )
    if not 1 <= max_concurrency <= MOST_AT_ONCE:
        raise ParameterError(f"Of a schedule, 1 to {MOST_AT_ONCE} runs go on at once, not {max_concurrency}.")
    if start and end and end <= start:
        raise ParameterError(f"The schedule ends ({end.isoformat()}) before it starts ({start.isoformat()}).")


def form(
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
    """Describes a schedule as the API wants it; see :meth:`clipseg_kfp.client.Client.schedule`.

    Raises:
        ParameterError: neither or both of cron and interval, or a concurrency that the backend refuses.
    """
    import kfp_server_api as server

    check_times(cron=cron, every=every, start=start, end=end, max_concurrency=max_concurrency)
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
        runtime_config=server.V2beta1RuntimeConfig(
            parameters=parameters, pipeline_root=pipeline_root or None
        ),
        trigger=trigger,
        mode="ENABLE" if enabled else "DISABLE",
        max_concurrency=str(max_concurrency),
        no_catchup=not catch_up,
        service_account=service_account or None,
    )


def changed(
    data: Any,
    *,
    version: Any,
    parameters: dict[str, Any],
    cron: str = "",
    every: int = 0,
    start: datetime | None = None,
    end: datetime | None = None,
    catch_up: bool | None = None,
    max_concurrency: int | None = None,
    namespace: str = "",
) -> Any:
    """A schedule with some things changed, as the API wants it; what is not given stays.

    The namespace is the session's, as in :func:`form`. The one that a recurring run answers with is where its pods
    run: in single-user mode its experiment has none, and the backend refuses any other.
    """
    was = data.trigger.cron_schedule or data.trigger.periodic_schedule
    if not cron and not every:
        cron = data.trigger.cron_schedule.cron if data.trigger.cron_schedule else ""
        every = 0 if cron else int(was.interval_second)
    return form(
        data.display_name,
        experiment=data.experiment_id,
        pipeline_id=version.pipeline_id,
        version_id=version.pipeline_version_id,
        parameters=parameters,
        cron=cron,
        every=every,
        start=start or (was.start_time if _time(was.start_time) else None),
        end=end or (was.end_time if _time(was.end_time) else None),
        catch_up=not data.no_catchup if catch_up is None else catch_up,
        max_concurrency=int(data.max_concurrency or 1) if max_concurrency is None else max_concurrency,
        enabled=is_enabled(data),
        service_account=data.service_account or "",
        pipeline_root=(data.runtime_config.pipeline_root if data.runtime_config else "") or "",
        namespace=namespace,
    )


def alike(there: Any, wanted: Any) -> bool:
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
