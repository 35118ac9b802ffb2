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
    prompts: Any,
    prompts_uri: Any,
    model_uri: Any,
    threshold: Any,
    shard_size: Any,
    limit: Any,
    full: Any,
    max_quarantined: Any,
    label_maps: Any,
    overlays: Any,
    batch_size: Any,
    memory_mb: Any,
    backend: Any,
    device: Any,
    precision: Any,
    int8_min_iou: Any,
    tile_size: Any,
    tile_ground_resolution: Any,
    tile_overlap: Any,
    meters_per_pixel: Any,
    flip: Any,
    probability_bits: Any,
    formats: Any,
    max_megapixels: Any,
    max_megabytes: Any,
    run_id: Any,
    endpoint: Any,
    storage_secret: Any,
    inference_memory: Any,
    accelerator_type: Any,
    accelerator_count: Any,
    ground_truth_uri: Any,
    ground_truth_format: Any,
    ground_truth_classes: Any,
    support_uri: Any = "",
    engineering: Any = "paper",
    prompt_sets: Any = None,
    rank: bool = False,
) -> Any:
    """Adds all tasks to the pipeline that is being traced, from the model to the run's manifest.

    Called in the body of a ``@dsl.pipeline``; each argument is a parameter of that pipeline (described there)
    or a constant. Without ``support_uri`` no prompts are made from example pictures. ``prompt_sets``
    take the place of ``prompts``; ``rank`` adds what compares prompts.

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
        prompts=prompts,
        prompts_uri=prompts_uri,
        threshold=threshold,
        precision=precision,
        tile_size=tile_size,
        tile_ground_resolution=tile_ground_resolution,
        tile_overlap=tile_overlap,
        meters_per_pixel=meters_per_pixel,
        flip=flip,
        support_uri=support_uri,
        engineering=engineering,
        prompt_sets=prompt_sets or {},
        endpoint=endpoint,
    )
    settle(encoded, storage_secret, cpu="2", memory="4G", reserve="2G", caching=False)
    encoded_prompts = encoded.outputs["encoded_prompts"]
    listing = fetch_dataset(
        source_uri=source_uri,
        output_uri=output_uri,
        encoded_prompts=encoded_prompts,
        shard_size=shard_size,
        limit=limit,
        full=full,
        max_quarantined=max_quarantined,
        endpoint=endpoint,
        run_id=run_id,
        job_id=dsl.PIPELINE_JOB_ID_PLACEHOLDER,
        ground_truth_uri=ground_truth_uri,
        ground_truth_format=ground_truth_format,
        ground_truth_classes=ground_truth_classes,
    )
    settle(listing, storage_secret, cpu="1", memory="1Gi", caching=False)

    with dsl.ParallelFor(listing.outputs["Output"], name="shards", parallelism=shards_at_once()) as shard:
        views = preprocess_images(
            dataset=listing.outputs["dataset"],
            shard=shard,
            encoded_prompts=encoded_prompts,
            max_megapixels=max_megapixels,
            max_megabytes=max_megabytes,
            endpoint=endpoint,
        )
        settle(views, storage_secret, cpu="2", memory="2Gi", caching=True)
        inference = segment_images(
            views=views.outputs["views"],
            encoded_prompts=encoded_prompts,
            model=model.outputs["model"],
            batch_size=batch_size,
            memory_mb=memory_mb,
            backend=backend,
            device=device,
            int8_min_iou=int8_min_iou,
        )
        settle(inference, storage_secret, cpu="2", memory=INFERENCE_MEMORY, reserve="2G", caching=True)
        settle_inference(inference, inference_memory, accelerator_type, accelerator_count)
        finished = postprocess_masks(
            views=views.outputs["views"],
            probabilities=inference.outputs["probabilities"],
            encoded_prompts=encoded_prompts,
            output_uri=output_uri,
            label_maps=label_maps,
            overlays=overlays,
            probability_bits=probability_bits,
            run_id=run_id,
            job_id=dsl.PIPELINE_JOB_ID_PLACEHOLDER,
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
        run_id=run_id,
        model_uri=model_uri,
        formats=formats,
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
