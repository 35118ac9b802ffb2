"""Writes the JSON Schema that ships with the package anew."""

import json
from pathlib import Path

from clipseg_kfp.prompts.parser import json_schema

if __name__ == "__main__":
    text = json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"
    Path(__file__).with_name("prompts.schema.json").write_text(text, "utf-8")
