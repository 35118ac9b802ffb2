"""KFP interface of fetch_dataset."""

from typing import List  # noqa: UP035 - KFP reads this form

from kfp import dsl

from clipseg_kfp.components.decorator import component


@component
def fetch_dataset(
    source_uri: str,
    output_uri: str,
    encoded_prompts: dsl.Input[dsl.Dataset],
    job_id: str,
    dataset: dsl.Output[dsl.Dataset],
    shard_size: int = 100,
    limit: int = 0,
    run_id: str = "",
    full: bool = False,
    max_quarantined: str = "",
    ground_truth_uri: str = "",
    ground_truth_format: str = "auto",
    ground_truth_classes: dict = {},  # noqa: B006 - KFP copies it
    endpoint: str = "",
) -> List[str]:  # noqa: UP006
    """Lists the images of a data set, leaves out what is done already, and splits the rest into shards.

    Args:
        source_uri: s3://bucket/prefix, a folder, a manifest file (CSV, JSONL, Parquet), a zip or tar archive.
        output_uri: Where results go; committed runs there tell what is done.
        encoded_prompts: From encode_prompts; names the configuration.
        job_id: Names the run where run_id is empty.
        shard_size: Images a shard; more where there would be over 24 shards, fewer where they hold 512 MB.
        run_id: Name of this run, if it has one of its own; a committed run of that name is an error.
        limit: The most new images to take; 0 takes what fits into a run. What is left is for the next run.
        full: Take images also if earlier runs have done them.
        max_quarantined: Bad images that the run may have: a number (20), a share of the listed ones (5%), or
            nothing for no bound. With more, it fails and commits nothing.
        ground_truth_uri: Where things really are: a COCO or PhraseCut file, or a folder of masks or label maps.
        ground_truth_format: auto looks; else masks, labels, voc, coco or phrasecut.
        ground_truth_classes: Class by prompt, where names differ.
        endpoint: URL of the S3 endpoint; empty takes S3_ENDPOINT from the environment.
        dataset: A table of images for each shard, and a summary.

    Returns:
        Names of the shards; at least one, which may be empty.
    """
    from clipseg_kfp.steps.running import run_step

    return run_step("fetch_dataset", locals())
