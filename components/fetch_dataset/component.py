"""KFP interface of fetch_dataset."""

from typing import List  # noqa: UP035 - KFP reads this form

from kfp import dsl

from clipseg_kfp.components.decorator import component


@component
def fetch_dataset(
    source_uri: str,
    output_uri: str,
    encoded_prompts: dsl.Input[dsl.Dataset],
    dataset: dsl.Output[dsl.Dataset],
    job_id: str = "",
    limits: dict = {},  # noqa: B006 - KFP copies it
    full: bool = False,
    ground_truth: dict = {},  # noqa: B006
    outputs: dict = {},  # noqa: B006
    endpoint: str = "",
) -> List[str]:  # noqa: UP006
    """Lists the images of a data set, leaves out what is done already, and splits the rest into shards.

    Args:
        source_uri: s3://bucket/prefix, a folder, a manifest file (CSV, JSONL, Parquet), a zip or tar archive.
        output_uri: Where results go; committed runs there tell what is done.
        encoded_prompts: From encode_prompts; names the configuration.
        job_id: Names the run where outputs.run_id is empty; without both, its progress is not told in the results.
        limits: What a run takes and refuses.
        full: Take all images, as limits.full does.
        ground_truth: Where things really are.
        outputs: Only run_id matters here: a committed run of that name is an error.
        endpoint: URL of the S3 endpoint; empty takes S3_ENDPOINT from the environment.
        dataset: A table of images for each shard, and a summary.

    Returns:
        Names of the shards; at least one, which may be empty.
    """
    from clipseg_kfp.steps.running import run_step

    return run_step("fetch_dataset", locals())
