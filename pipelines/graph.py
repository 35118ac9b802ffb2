"""The graph that the pipelines share: they differ in how people say what to look for."""

from typing import Any

from kfp import dsl

from clipseg_kfp.components import (
    encode_prompts,
    evaluate_masks,
    fetch_dataset,
    fetch_model,
    postprocess_masks,
    preprocess_images,
    publish_results,
    rank_prompts,
    segment_images,
)
from clipseg_kfp.components.image import own_graph
from clipseg_kfp.pipelines.settings import (
    INFERENCE_MEMORY,
    allow_private_models,
    settle,
    settle_inference,
    shards_at_once,
)


@own_graph()
def segment_bucket(
    *,
    source_uri: Any,
    output_uri: Any,
    model_uri: Any,
    views: Any,
    inference: Any,
    outputs: Any,
    limits: Any,
    ground_truth: Any,
    endpoint: Any,
    storage_secret: Any,
    inference_memory: Any,
    prompts: Any = (),
    prompts_uri: Any = "",
    threshold: Any = 0.5,
    support: Any = None,
    prompt_sets: Any = None,
    full: bool = False,
    rank: bool = False,
) -> Any:
    """Adds all tasks to the pipeline that is being traced, from the model to the run's manifest.

    Called in the body of a ``@dsl.pipeline``; each argument is a parameter of that pipeline (described there)
    or a constant. Without ``support`` no prompts are made from example pictures. ``prompt_sets`` take the place
    of ``prompts``; ``full`` takes images that are done as well; ``rank`` adds what compares prompts.

    Returns:
        The output that has the URI of the run's manifest.
    """
    model = fetch_model(model_uri=model_uri, endpoint=endpoint)
    # Whatever can be replaced in place (a checkpoint, a prompt file, a bucket's content) is never cached;
    # what spares repeated work is that done images are skipped. Pure steps may be cached.
    settle(model, storage_secret, cpu="1", memory="2Gi", caching=False)
    allow_private_models(model)
    encoded = encode_prompts(
        model=model.outputs["model"],
        prompts=prompts or [],
        prompts_uri=prompts_uri,
        threshold=threshold,
        views=views,
        inference=inference,
        support=support or {},
        prompt_sets=prompt_sets or {},
        endpoint=endpoint,
    )
    settle(encoded, storage_secret, cpu="2", memory="4G", reserve="2G", caching=False)
    encoded_prompts = encoded.outputs["encoded_prompts"]
    listing = fetch_dataset(
        source_uri=source_uri,
        output_uri=output_uri,
        encoded_prompts=encoded_prompts,
        limits=limits,
        full=full,
        ground_truth=ground_truth,
        outputs=outputs,
        endpoint=endpoint,
        job_id=dsl.PIPELINE_JOB_ID_PLACEHOLDER,
    )
    settle(listing, storage_secret, cpu="1", memory="1Gi", caching=False)

    with dsl.ParallelFor(listing.outputs["Output"], name="shards", parallelism=shards_at_once()) as shard:
        packed = preprocess_images(
            dataset=listing.outputs["dataset"],
            shard=shard,
            encoded_prompts=encoded_prompts,
            limits=limits,
            endpoint=endpoint,
        )
        settle(packed, storage_secret, cpu="2", memory="2Gi", caching=True)
        maps = segment_images(
            views=packed.outputs["views"],
            encoded_prompts=encoded_prompts,
            model=model.outputs["model"],
            inference=inference,
        )
        settle(maps, storage_secret, cpu="2", memory=INFERENCE_MEMORY, reserve="2G", caching=True)
        settle_inference(maps, inference_memory)
        finished = postprocess_masks(
            views=packed.outputs["views"],
            probabilities=maps.outputs["probabilities"],
            encoded_prompts=encoded_prompts,
            output_uri=output_uri,
            job_id=dsl.PIPELINE_JOB_ID_PLACEHOLDER,
            outputs=outputs,
            endpoint=endpoint,
        )
        # Not cached: its masks are in the bucket, which may have been emptied since.
        settle(finished, storage_secret, cpu="2", memory="2Gi", caching=False)

    evaluation = evaluate_masks(masks=dsl.Collected(finished.outputs["masks"]), endpoint=endpoint)
    settle(evaluation, storage_secret, cpu="1", memory="1Gi", caching=False)
    published = publish_results(
        masks=dsl.Collected(finished.outputs["masks"]),
        dataset=listing.outputs["dataset"],
        encoded_prompts=encoded_prompts,
        evaluation=evaluation.outputs["evaluation"],
        output_uri=output_uri,
        job_id=dsl.PIPELINE_JOB_ID_PLACEHOLDER,
        model_uri=model_uri,
        outputs=outputs,
        endpoint=endpoint,
    )
    settle(published, storage_secret, cpu="1", memory="2Gi", caching=False)
    if rank:
        ranked = rank_prompts(
            evaluation=evaluation.outputs["evaluation"],
            encoded_prompts=encoded_prompts,
            source_uri=source_uri,
        )
        settle(ranked, storage_secret, cpu="1", memory="1Gi", caching=False)
    return published.outputs["Output"]
