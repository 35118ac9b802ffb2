"""KFP interface of publish_results."""

from typing import List  # noqa: UP035 - KFP reads this form

from kfp import dsl

from clipseg_kfp.container import DEFAULT_IMAGE


@dsl.component(base_image=DEFAULT_IMAGE, install_kfp_package=False)
def publish_results(
    masks: dsl.Input[List[dsl.Dataset]],  # noqa: UP006
    dataset: dsl.Input[dsl.Dataset],
    encoded_prompts: dsl.Input[dsl.Dataset],
    evaluation: dsl.Input[dsl.Dataset],
    output_uri: str,
    job_id: str,
    report: dsl.Output[dsl.HTML],
    metrics: dsl.Output[dsl.Metrics],
    run_id: str = "",
    model_uri: str = "",
    formats: list = [],  # noqa: B006 - KFP copies it
    endpoint: str = "",
) -> str:
    """Writes the run's tables, COCO file, metrics and report, and its manifest last: then the run exists.

    Args:
        masks: From postprocess_masks, of all shards.
        dataset: From fetch_dataset.
        encoded_prompts: From encode_prompts.
        evaluation: From evaluate_masks.
        output_uri: Where results go.
        job_id: Names the run where run_id is empty.
        run_id: Name of the run in the results.
        model_uri: Recorded in the manifest.
        formats: What to write besides COCO: coco-polygons, yolo, labelstudio, labelstudio-polygons, csv.
        endpoint: URL of the S3 endpoint; empty takes S3_ENDPOINT from the environment.
        report: The report, for the UI; the same page lies in the bucket.
        metrics: Counts of images and masks, for the UI.

    Returns:
        URI of the manifest.
    """
    from pathlib import Path
    from tempfile import TemporaryDirectory

    from clipseg_kfp.steps import publish_results as step
    from clipseg_kfp.steps import running
    from clipseg_kfp.steps.encode_prompts import read_configuration

    with running(step.STEP), TemporaryDirectory() as folder:
        published = step.run(
            shards=[Path(shard.path) for shard in masks],
            dataset=Path(dataset.path),
            prompts=Path(encoded_prompts.path),
            evaluation=Path(evaluation.path),
            target=Path(folder),
            output_uri=output_uri,
            config=read_configuration(Path(encoded_prompts.path)),
            run_id=run_id or job_id,
            model_uri=model_uri,
            formats=formats,
            endpoint=endpoint,
        )
        Path(report.path).write_text(published.report, "utf-8")
        for name, value in vars(published.counts).items():
            metrics.log_metric(name, value)
        return published.manifest
