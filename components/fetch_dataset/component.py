"""KFP interface of fetch_dataset."""

from typing import List  # noqa: UP035 - KFP reads this form

from kfp import dsl

from clipseg_kfp.container import DEFAULT_IMAGE


@dsl.component(base_image=DEFAULT_IMAGE, install_kfp_package=False)
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
    from dataclasses import asdict
    from pathlib import Path

    from clipseg_kfp.steps import fetch_dataset as step
    from clipseg_kfp.steps import running
    from clipseg_kfp.steps.encode_prompts import read_configuration

    with running(step.STEP):
        found = step.run(
            source_uri=source_uri,
            output_uri=output_uri,
            config=read_configuration(Path(encoded_prompts.path)),
            prompts=Path(encoded_prompts.path),
            target=Path(dataset.path),
            shard_size=shard_size,
            limit=limit,
            run_id=run_id,
            job_id=job_id,
            full=full,
            max_quarantined=max_quarantined,
            ground_truth_uri=ground_truth_uri,
            ground_truth_format=ground_truth_format,
            ground_truth_classes=ground_truth_classes,
            endpoint=endpoint,
        )
        dataset.metadata.update(asdict(found))
        return found.shards
