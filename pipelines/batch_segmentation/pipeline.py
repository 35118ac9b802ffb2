"""The main pipeline: a bucket of images in, masks and metrics in the bucket out."""

from kfp import dsl

from clipseg_kfp.pipelines.graph import segment_bucket
from clipseg_kfp.pipelines.settings import CLUSTER_ENDPOINT, DEFAULT_MODEL, INFERENCE_MEMORY, STORAGE_SECRET


@dsl.pipeline(
    name="batch-segmentation",
    description="Segments every image of a bucket by prompts: masks, tables and a report in the bucket.",
)
def batch_segmentation(
    source_uri: str = "s3://mlpipeline/shared/images",
    output_uri: str = "s3://mlpipeline/shared/masks",
    prompts: list = ["a cat", "a cup"],  # noqa: B006 - KFP copies it
    prompts_uri: str = "",
    model_uri: str = DEFAULT_MODEL,
    threshold: float = 0.5,
    ground_truth_uri: str = "",
    ground_truth_format: str = "auto",
    ground_truth_classes: dict = {},  # noqa: B006 - KFP copies it
    shard_size: int = 100,
    limit: int = 0,
    full: bool = False,
    max_quarantined: str = "",
    label_maps: bool = True,
    overlays: bool = True,
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
    probability_bits: int = 0,
    formats: list = [],  # noqa: B006 - KFP copies it
    max_megapixels: float = 50.0,
    max_megabytes: float = 100.0,
    run_id: str = "",
    endpoint: str = CLUSTER_ENDPOINT,
    storage_secret: str = STORAGE_SECRET,
    inference_memory: str = INFERENCE_MEMORY,
    accelerator_type: str = "",
    accelerator_count: str = "1",
) -> str:
    """Segments every image of a bucket by prompts.

    Args:
        source_uri: Images: s3://bucket/prefix, a manifest (CSV, JSONL, Parquet with a column uri), or a zip
            or tar archive. Pictures in masks/<prompt>/ beside images/ are taken as ground truth.
        output_uri: Where masks, tables and reports go: s3://bucket/prefix.
        prompts: What to look for, as a JSON list: ["a cat", "a cup"], or objects: texts, images, stored
            embeddings, mixes, logic; each with threshold and cleaning (docs/prompts.md).
        prompts_uri: A JSON or YAML prompt file instead of the list.
        model_uri: Checkpoint, safetensors only: hf://org/name@revision (pin it), or s3://bucket/prefix.
        threshold: Probability from which a pixel belongs to a mask, between 0 and 1.
        ground_truth_uri: Where things really are, to measure masks with: a COCO or PhraseCut file, or a folder of
            masks or label maps (docs/ground-truth.md). Empty takes masks/<prompt>/ beside images/.
        ground_truth_format: auto looks what it is; else masks, labels, voc, coco or phrasecut.
        ground_truth_classes: Class by prompt where names differ, as JSON: {"a cat": "cat"}.
        shard_size: Images a parallel branch; at most 24 branches are made, of at most 512 MB.
        limit: The most new images to take in this run; 0 takes what fits into one.
        full: Take images also if earlier runs have done them under the same configuration, the oldest first.
        max_quarantined: Bad images that the run may have: a number (20), a share of the listed ones (5%), or
            nothing for no bound. With more, it fails with the reasons and commits nothing.
        label_maps: Write a palette map of the most probable prompt for each new image.
        overlays: Write a preview with the masks painted in for each new image.
        batch_size: Images encoded at once, at most; 0 takes what suits the device.
        memory_mb: Megabytes that the model's activations may take; 0 takes what suits the device.
        backend: torch, openvino (CPUs only), or auto: openvino on Intel and AMD CPUs.
        device: auto or cpu; cuda needs an accelerator on the inference task.
        precision: auto or float32; bfloat16 (take it on GPUs); int8 (openvino, for shards of 150 or more; needs
            the image cpu-int8).
        int8_min_iou: With int8, the least IoU of masks with those of float32 on held-out images of a shard.
        tile_size: Side of tiles in pixels of the source; larger images are looked at in overlapping tiles as
            well as in whole. About four times the size of the things looked for is a good one; 0 cuts none.
        tile_ground_resolution: Instead of tile_size, the meters that a pixel of the model shall cover.
        tile_overlap: Least overlap of neighboring tiles, as a part of their side.
        meters_per_pixel: Ground resolution of the images; 0 takes what their files say (GeoTIFF).
        flip: Average the maps of every view with those of its mirror image: twice the time.
        probability_bits: 8 or 16 also writes probabilities of new images, as grayscale PNGs; 0 does not.
        formats: What to write besides COCO, as a JSON list of coco-polygons, yolo, labelstudio,
            labelstudio-polygons and csv.
        max_megapixels: Larger images go to quarantine.
        max_megabytes: Larger files go to quarantine.
        run_id: Name of this run in the results; empty takes Kubeflow's run ID.
        endpoint: URL of the S3 endpoint; empty takes S3_ENDPOINT from the pods' environment, else AWS.
        storage_secret: Kubernetes secret with the keys accesskey and secretkey for the store.
        inference_memory: Memory limit of segment_images, such as 4G or 12Gi; 2G or more.
        accelerator_type: Device of segment_images, such as nvidia.com/gpu; empty asks for none. It needs the GPU image.
        accelerator_count: How many of them; a pod uses one.

    Returns:
        URI of the run's manifest.
    """
    manifest: str = segment_bucket(**locals())  # each parameter under its own name
    return manifest
