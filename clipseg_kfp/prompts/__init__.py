"""Prompt sets: what to look for, as people write it; checked, resolved, encoded, combined.

The modules, from the bottom: ``logic``, ``entries`` and ``templates`` (what entries are made of), ``sets`` (the
entries), ``parser`` (from text to sets), ``example_folders`` (from folders of pictures to entries), ``files``,
``vectors`` and ``support`` (what entries refer to), ``definitions`` (all of it together), ``union`` (several sets),
``encoder`` (with the model), ``references`` (what must be there before a run) and ``table`` (for later steps).
"""

from clipseg_kfp.prompts.definitions import Ingredient, ResolvedPrompt, gather
from clipseg_kfp.prompts.encoder import Encoder, check_texts, encode
from clipseg_kfp.prompts.entries import Cleaning, Engineering, EngineeringEntry, ImageEntry, StoredEmbedding
from clipseg_kfp.prompts.example_folders import prompts_from_folders
from clipseg_kfp.prompts.files import Files
from clipseg_kfp.prompts.logic import evaluate, parse_logic
from clipseg_kfp.prompts.parser import (
    check_threshold,
    json_schema,
    parse_prompts,
    read_prompts,
    split_prompt_text,
)
from clipseg_kfp.prompts.read import read_prompt_set, read_prompt_sets
from clipseg_kfp.prompts.references import Reference, check_references, read_prompt_file_inline, references
from clipseg_kfp.prompts.sets import MAX_PROMPTS, Prompt, PromptSet
from clipseg_kfp.prompts.support import engineer
from clipseg_kfp.prompts.table import PromptTable, Row, complete, read_rows, read_table, write_table
from clipseg_kfp.prompts.union import combine

__all__ = [
    "MAX_PROMPTS", "Cleaning", "Encoder", "Engineering", "EngineeringEntry", "Files", "ImageEntry", "Ingredient",
    "Prompt", "PromptSet", "PromptTable", "Reference", "ResolvedPrompt", "Row", "StoredEmbedding",
    "check_references", "check_texts", "check_threshold", "combine", "complete", "encode", "engineer", "evaluate",
    "gather", "json_schema", "parse_logic", "parse_prompts", "prompts_from_folders", "read_prompt_file_inline",
    "read_prompt_set", "read_prompt_sets", "read_prompts", "read_rows", "read_table", "references",
    "split_prompt_text", "write_table",
]  # fmt: skip
