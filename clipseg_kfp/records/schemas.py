"""The schemas of all tables, between steps and in the results."""

from __future__ import annotations

import pyarrow as pa

#: ``clipseg_kfp.dataset.ground_truth.GroundTruth``.
GROUND_TRUTH = pa.struct(
    [("prompt", pa.string()), ("uri", pa.string()), ("kind", pa.string()), ("data", pa.string())]
)

#: fetch_dataset: one row per image.
SOURCES = pa.schema(
    [
        ("source", pa.string()),  # what people see: the URI, with !/member for archives
        ("key", pa.string()),  # name below the data set's root; output names derive from it
        ("uri", pa.string()),  # where the bytes are
        ("version", pa.string()),  # changes with the content
        ("size", pa.int64()),  # bytes
        ("ground_truth", pa.list_(GROUND_TRUTH)),
    ]
)

#: What every image ends as; preprocess_images starts the table, postprocess_masks completes it.
IMAGES = pa.schema(
    [
        *SOURCES,
        ("status", pa.string()),  # done, quarantined
        ("reason", pa.string()),  # short code of a quarantine, "" when done
        ("detail", pa.string()),  # the same for people
        ("width", pa.int32()),  # of the upright image
        ("height", pa.int32()),
        ("label_map", pa.string()),  # key below the configuration's folder
        ("label_map_sha256", pa.string()),  # null where there is none
        ("label_map_bytes", pa.int64()),
        ("overlay", pa.string()),
        ("overlay_sha256", pa.string()),
        ("overlay_bytes", pa.int64()),
    ]
)

#: preprocess_images: one row per view (the image, or a tile of it), ready for the model.
VIEWS = pa.schema(
    [
        ("image", pa.int32()),  # row in the shard's IMAGES table
        ("box", pa.list_(pa.int32(), 4)),  # left, top, right, bottom in the upright image
        ("pixels", pa.large_binary()),  # uint8 RGB, size x size x 3
    ]
)

#: preprocess_images: a small JPEG per image, for overlays and the report.
PREVIEWS = pa.schema([("image", pa.int32()), ("jpeg", pa.large_binary())])

#: segment_images: one row per view and prompt, in the order of the views.
PROBABILITIES = pa.schema(
    [
        ("image", pa.int32()),
        ("box", pa.list_(pa.int32(), 4)),
        ("prompt", pa.int16()),  # row in the prompt table
        ("probability", pa.large_binary()),  # uint8, round(255 p), size x size, packed by ``pack_map``
    ]
)

#: encode_prompts: one row per prompt; see ``clipseg_kfp.prompts.Row``.
PROMPTS = pa.schema(
    [
        ("name", pa.string()),
        ("id", pa.int32()),  # category number in the results, from 1
        ("kind", pa.string()),  # text, image, embedding, mix, logic
        ("description", pa.string()),  # what it was made of, for people
        ("texts", pa.list_(pa.string())),  # of kind text
        ("sources", pa.list_(pa.string())),  # URIs of the files read, as written in the prompt set
        ("threshold", pa.float64()),  # null: Otsu's method, or hidden
        ("otsu", pa.bool_()),
        ("otsu_minimum", pa.float64()),  # the lowest threshold that Otsu's method may choose
        ("expression", pa.string()),  # of kind logic
        ("hidden", pa.bool_()),  # for use in logic only: no masks
        ("cleaning", pa.string()),  # JSON: clipseg_kfp.prompts.Cleaning
        ("instances", pa.bool_()),
        ("definition", pa.string()),  # JSON: what the configuration's digest covers
        ("embedding", pa.list_(pa.float32())),  # (D,); null for kind logic
    ]
)

#: postprocess_masks and the results: one row per image and prompt.
MASKS = pa.schema(
    [
        ("source", pa.string()),
        ("key", pa.string()),
        ("version", pa.string()),
        ("prompt", pa.string()),
        ("category_id", pa.int32()),  # the prompt's id, by default its place in the set, from 1
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("threshold", pa.float64()),
        ("area", pa.int64()),  # pixels of the mask
        ("coverage", pa.float64()),  # area / (width x height)
        ("bbox", pa.list_(pa.int32(), 4)),  # COCO: x, y, width, height; zeros for an empty mask
        ("rle", pa.string()),  # COCO's compressed counts, column-major
        ("score", pa.float64()),  # mean probability inside the mask, 0 when empty
        ("mean_probability", pa.float64()),  # over the whole image
        ("max_probability", pa.float64()),
        ("mask", pa.string()),  # key below the configuration's folder
        ("mask_sha256", pa.string()),
        ("mask_bytes", pa.int64()),
        ("probability", pa.string()),  # key of the probability map, if requested
        ("probability_sha256", pa.string()),  # null where there is none
        ("probability_bytes", pa.int64()),
    ]
)

#: postprocess_masks: a few pictures per shard, for the report.
GALLERY = pa.schema(
    [
        ("key", pa.string()),
        ("version", pa.string()),
        ("preview", pa.large_binary()),  # JPEG
        ("overlay", pa.large_binary()),  # JPEG of the same size
        # small JPEGs of probabilities: of the prompt that was found most clearly, and of others that are telling
        ("heats", pa.list_(pa.struct([("prompt", pa.string()), ("jpeg", pa.large_binary())]))),
    ]
)

#: evaluate_masks: ground truth of the images that the report shows.
TRUTHS = pa.schema(
    [
        ("key", pa.string()),
        ("version", pa.string()),
        ("png", pa.large_binary()),  # small, in the colors of the prompts, transparent elsewhere
    ]
)

#: postprocess_masks: the probabilities of each image and prompt with ground truth, in the order of MASKS.
SCORES = pa.schema(
    [
        ("key", pa.string()),
        ("version", pa.string()),
        ("prompt", pa.string()),
        ("boxes", pa.list_(pa.list_(pa.int32(), 4))),  # of the views, V of them
        ("maps", pa.large_binary()),  # uint8, round(255 p), V x size x size; of logic prompts, the result
    ]
)

_COUNTS = (
    ("tp", pa.int64()),  # pixels of the written masks, summed over images
    ("fp", pa.int64()),
    ("fn", pa.int64()),
    ("tn", pa.int64()),
    ("iou", pa.float64()),
    ("dice", pa.float64()),
    ("precision", pa.float64()),
    ("recall", pa.float64()),
    ("boundary_iou", pa.float64()),  # mean over images with an outline; null if there are none
)

#: evaluate_masks and the results: one row per prompt with ground truth.
EVALUATION = pa.schema(
    [
        ("prompt", pa.string()),
        ("images", pa.int64()),
        *_COUNTS,  # iou, dice and recall are null without foreground
        ("false_alarm_images", pa.int64()),  # images without the thing and with a mask of it
        ("false_alarm_share", pa.float64()),  # of the images without the thing; null where all have it
        ("iou_low", pa.float64()),  # 95 % interval over images; null if fewer than two have foreground
        ("iou_high", pa.float64()),
        ("best_threshold", pa.float64()),  # the rest is null without foreground
        ("best_iou", pa.float64()),
        ("best_iou_low", pa.float64()),
        ("best_iou_high", pa.float64()),
        ("average_precision", pa.float64()),
        ("average_precision_paper", pa.float64()),
        ("roc_auc", pa.float64()),
        ("calibration_error", pa.float64()),
    ]
)

#: evaluate_masks and the results: one row per image and prompt with ground truth.
PER_IMAGE = pa.schema(
    [
        ("key", pa.string()),
        ("version", pa.string()),
        ("prompt", pa.string()),
        ("width", pa.int32()),  # of the ground truth
        ("height", pa.int32()),
        *_COUNTS,
        ("sweep_tp", pa.list_(pa.int32(), 49)),  # at each threshold of clipseg_kfp.metrics.THRESHOLDS
        ("sweep_fp", pa.list_(pa.int32(), 49)),
    ]
)

#: results: every image of a run, done or quarantined; later runs skip these.
RUN_IMAGES = pa.schema(
    [IMAGES.field(name) for name in IMAGES.names if name not in ("uri", "ground_truth", "detail")]
)

#: results: the done images of a part, so that a later run can take them over.
PART_IMAGES = pa.schema(
    [IMAGES.field(name) for name in IMAGES.names if name not in ("ground_truth", "detail")]
)

#: fetch_dataset: images that an attempt has done that was not committed, in the order of parts.
TAKEN = pa.schema(
    [
        ("part", pa.string()),  # key of its masks' rows below the configuration's folder
        ("images", pa.string()),  # of its images' rows
        ("key", pa.string()),
        ("version", pa.string()),
    ]
)

#: fetch_dataset and the results: images of earlier runs that are no longer listed.
DELETED = pa.schema(
    [
        *(SOURCES.field(name) for name in ("source", "key", "version")),
        ("run", pa.string()),  # the latest run that did it
        ("status", pa.string()),  # done, or quarantined and never done
    ]
)

#: results: what many runs did, sorted by image; the table's metadata names the runs.
LEDGER = pa.schema(
    [
        ("image", pa.binary(16)),  # digest of key and version
        ("name", pa.binary(16)),  # digest of the key
        ("run", pa.int32()),  # row in the list of runs
        ("done", pa.bool_()),  # or quarantined
        ("settled", pa.bool_()),  # for what the image is; not because the store refused it
    ]
)

#: results: the quarantine of a run.
QUARANTINE = pa.schema(
    [IMAGES.field(name) for name in ("source", "key", "version", "size", "reason", "detail")]
)
