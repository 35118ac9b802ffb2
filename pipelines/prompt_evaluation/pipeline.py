"""Prompt sets and thresholds compared on labeled images, which are encoded once for all of them."""

from kfp import dsl

from clipseg_kfp.pipelines.graph import segment_bucket
from clipseg_kfp.pipelines.settings import CLUSTER_ENDPOINT, DEFAULT_MODEL, INFERENCE_MEMORY, STORAGE_SECRET


@dsl.pipeline(
    name="prompt-evaluation",
    description="Compares prompt sets on labeled images: a ranking, and the best threshold of each prompt.",
)
def prompt_evaluation(
    source_uri: str = "s3://mlpipeline/shared/images",
    ground_truth_uri: str = "",
    ground_truth_format: str = "auto",
    ground_truth_classes: dict = {},  # noqa: B006 - KFP copies it
    output_uri: str = "s3://mlpipeline/shared/evaluation",
    # One set: protobuf writes the keys of a default in any order, and packages would differ from day to day.
    prompt_sets: dict = {"plain": ["a cat", "a cup"]},  # noqa: B006
    model_uri: str = DEFAULT_MODEL,
    shard_size: int = 100,
    limit: int = 0,
    batch_size: int = 0,
    memory_mb: int = 0,
    backend: str = "auto",
    device: str = "auto",
    precision: str = "auto",
    int8_min_iou: float = 0.99,
    tile_size: int = 0,
    tile_ground_resolution: float = 0.0,
    tile_overlap: float = 0.25,
    meters_per_pixel: float = 0.0,
    flip: bool = False,
    max_megapixels: float = 50.0,
    max_megabytes: float = 100.0,
    run_id: str = "",
    endpoint: str = CLUSTER_ENDPOINT,
    storage_secret: str = STORAGE_SECRET,
    inference_memory: str = INFERENCE_MEMORY,
    accelerator_type: str = "",
    accelerator_count: str = "1",
) -> str:
    """Compares prompt sets on labeled images: a ranking, and the best threshold of each prompt.

    Every image is encoded once and all prompts are decoded from it; all thresholds are counted in one pass.
    Images are taken whether or not an earlier run has done them.

    Args:
        source_uri: Images: s3://bucket/prefix, a manifest, or a zip or tar archive, as for batch-segmentation.
        ground_truth_uri: Where things really are: a COCO or PhraseCut file, or a folder of masks or label maps
            (docs/ground-truth.md). Empty takes masks/<class>/ beside images/.
        ground_truth_format: auto looks what it is; else masks, labels, voc, coco or phrasecut.
        ground_truth_classes: Class by prompt where names differ, as JSON: {"a cat": "cat"}.
        output_uri: Where masks, tables and the report go: s3://bucket/prefix.
        prompt_sets: What to compare, as a JSON object: each set is a list of prompts, or the URI of a prompt
            file. Prompts of one class are compared with the same ground truth.
        model_uri: Checkpoint, safetensors only: hf://org/name@revision (pin it), or s3://bucket/prefix.
        shard_size: Images a parallel branch; at most 24 branches are made, of at most 512 MB.
        limit: The most images to take; 0 takes what fits into one run.
        batch_size: Images encoded at once, at most; 0 takes what suits the device.
        memory_mb: Megabytes that the model's activations may take; 0 takes what suits the device.
        backend: torch, openvino (CPUs only), or auto: openvino on Intel and AMD CPUs.
        device: auto or cpu; cuda needs an accelerator on the inference task.
        precision: auto or float32; bfloat16 (take it on GPUs); int8 (openvino, for shards of 150 or more; needs
            the image cpu-int8).
        int8_min_iou: With int8, the least IoU of masks with those of float32 on held-out images of a shard.
        tile_size: Side of tiles in pixels of the source; larger images are looked at in overlapping tiles as
            well as in whole. 0 cuts none.
        tile_ground_resolution: Instead of tile_size, the meters that a pixel of the model shall cover.
        tile_overlap: Least overlap of neighboring tiles, as a part of their side.
        meters_per_pixel: Ground resolution of the images; 0 takes what their files say (GeoTIFF).
        flip: Average the maps of every view with those of its mirror image: twice the time.
        max_megapixels: Larger images go to quarantine.
        max_megabytes: Larger files go to quarantine.
        run_id: Name of this run in the results; empty takes Kubeflow's run ID.
        endpoint: URL of the S3 endpoint; empty takes S3_ENDPOINT from the pods' environment, else AWS.
        storage_secret: Kubernetes secret with the keys accesskey and secretkey for the store.
        inference_memory: Memory limit of segment_images, such as 4G or 12Gi; 2G or more.
        accelerator_type: Device of segment_images, such as nvidia.com/gpu; empty asks for none. It needs the GPU image.
        accelerator_count: How many of them; a pod uses one.

    Returns:
        URI of the run's manifest; beside it lie evaluation.parquet and thresholds.json.
    """
    manifest: str = segment_bucket(
        **locals(),
        prompts=[],
        prompts_uri="",
        threshold=0.5,
        label_maps=False,
        overlays=True,
        probability_bits=0,
        formats=[],
        full=True,
        max_quarantined="",
        rank=True,
    )
    return manifest
