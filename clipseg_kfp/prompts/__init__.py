"""Prompt sets: what to look for, as people write it; checked, gathered, encoded, combined.

The modules, from the bottom: ``templates``, ``logic`` and ``parts`` (what entries are made of), ``sets`` (the
entries), ``parsing`` (from text to sets), ``folders`` (from folders of pictures to entries), ``files``,
``stored`` and ``support`` (what entries refer to), ``gathering`` (all of it together), ``combining`` (several
sets), ``encoding`` (with the model), ``references`` (what must be there before a run) and ``table`` (for later steps).
"""

from clipseg_kfp.prompts.definitions import Gathered, Ingredient, gather
from clipseg_kfp.prompts.encoder import Encoder, check_texts, embed_texts, encode
from clipseg_kfp.prompts.entries import Cleaning, Engineering, StoredEmbedding, SupportImage
from clipseg_kfp.prompts.example_folders import check_engineering, prompts_shown
from clipseg_kfp.prompts.files import Files
from clipseg_kfp.prompts.logic import evaluate, parse_logic
from clipseg_kfp.prompts.parser import (
    check_threshold,
    json_schema,
    parse_prompts,
    read_prompts,
    split_prompt_text,
)
from clipseg_kfp.prompts.references import Reference, check_references, read_prompt_file_inline, references
from clipseg_kfp.prompts.sets import MAX_PROMPTS, Prompt, PromptSet
from clipseg_kfp.prompts.support import engineer
from clipseg_kfp.prompts.table import PromptTable, Row, complete, read_rows, read_table, write_table
from clipseg_kfp.prompts.union import combine

__all__ = [
    "MAX_PROMPTS", "Cleaning", "Encoder", "Engineering", "Files", "Gathered", "Ingredient", "Prompt",
    "PromptSet", "PromptTable", "Reference", "Row", "StoredEmbedding", "SupportImage",
    "check_engineering", "check_references", "check_texts",
    "check_threshold", "combine", "complete", "embed_texts", "encode", "engineer", "evaluate", "gather", "json_schema",
    "parse_logic", "parse_prompts", "prompts_shown", "read_prompt_file_inline", "read_prompts", "read_rows",
    "read_table", "references", "split_prompt_text", "write_table",
]  # fmt: skip
